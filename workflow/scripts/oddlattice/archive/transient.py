"""Reasons against a file that pass by themselves: it was out of reach when it was to be read."""

VANISHED = "vanished: the file was there when the archive was scanned, now it is gone"
FORBIDDEN = "permission denied: the account that runs this may not read the file"
UNOPENED = "could not be opened"
UNREADABLE = "could not be read from its disk"
CHANGED = "changed while being read; it will be taken as a new version"


def may_pass(sentence: str) -> bool:
    """Whether a file refused with this sentence is worth another try once the archive shows it as it was."""
    return any(reason in sentence for reason in (VANISHED, FORBIDDEN, UNOPENED, UNREADABLE, CHANGED))
