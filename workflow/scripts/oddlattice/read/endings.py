"""How reading a file ended, in a sentence for a microscopist."""

import os
import re
from collections.abc import Mapping
from typing import Any

from oddlattice.archive import transient
from oddlattice.process.sandbox import Ending
from oddlattice.read.amounts import amount
from oddlattice.read.formats import dm
from oddlattice.run.stage_settings import ReadSettings


def sentence(ending: Ending, file: Mapping[str, Any], path: str, settings: ReadSettings) -> str:
    """Why a file as a whole was refused, for a microscopist; "" if it was not.

    Parameters
    ----------
    ending : Ending
        Of the child that read it.
    file : mapping
        Its row of the shard's table (products.SHARD).
    path : str
        Where the file is.
    settings : ReadSettings
    """
    if ending.how not in ("returned", "refused") and has_changed(file, path):
        return f"The file {transient.CHANGED}."
    memory_mb, timeout_s = settings.memory_mb, settings.timeout_s
    match ending.how:
        case "returned":
            return ""
        case "refused":
            return f"The file {ending.detail}."
        case "raised":
            return f"The file {damage(ending.detail, missing_bytes(path))}."
        case "memory":
            return f"The file needs more than {memory_mb} MB of memory to read: damaged, or raise read.memory_mb."
        case "time":
            return f"The file was not read within {timeout_s:g} s and was given up: damaged, or raise read.timeout_s."
        case "signal":
            return f"The file crashed its reader ({ending.detail}): probably damaged."
        case "silent":
            return f"The file made its reader stop without a word ({ending.detail}): probably damaged."
    raise ValueError(f"{path}: unknown ending {ending.how!r}")


def damage(detail: str, missing: int) -> str:
    """Words for an exception of a reader; `missing` bytes are known to lack at the end of the file."""
    if missing:
        return f"is truncated: {amount(missing)} are missing at its end"
    if lengths := re.search(r"truncated file: eof = (\d+),.* stored_eof = (\d+)", detail):
        missing = int(lengths[2]) - int(lengths[1])
        return f"is truncated: {amount(missing)} are missing at its end"
    return f"could not be understood by its reader, probably it is damaged ({detail})"


def has_changed(file: Mapping[str, Any], path: str) -> bool:
    """Whether a file is there but no longer the one that was scanned; cut short while mapped it kills its reader."""
    try:
        now = os.stat(path)
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) != (file["size_bytes"], file["mtime_ns"])


def missing_bytes(path: str) -> int:
    """Bytes that a DigitalMicrograph file lacks of the length in its header; 0 for all other files."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        return dm.missing_bytes(handle)
    finally:
        os.close(handle)
