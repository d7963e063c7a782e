"""A stage of three images that goes on watched, and the ways in which an image may end it; a program of its own.

    python watched_stage.py FOLDER LONGEST_S '{"b": "crash"}'

writes FOLDER/attempts, a line an attempt, and FOLDER/found.json: what became of each image.
"""

import ctypes
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from oddlattice.process.supervised import Watch, go_on_watched


def crash() -> None:
    ctypes.string_at(8)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash_ahead() -> None:
    """What the thread does that reads the next image."""
    thread = threading.Thread(target=crash)
    thread.start()
    thread.join()


def work(name: str, does: str, attempt: int) -> str:
    if does == "crash":
        crash()
    if does == "be killed" or (does == "be killed once" and attempt == 1):
        be_killed()
    if does == "hang":
        time.sleep(600)
    if does == "raise":
        raise ZeroDivisionError("nothing to divide by")
    if does == "fill the disk":
        raise OSError(28, "No space left on device")
    if does == "be told to end":
        os.kill(os.getpid(), signal.SIGTERM)
    return f"{name} done"


def main(folder: Path, plan: dict[str, str], watch: Watch) -> None:
    with open(folder / "attempts", "a") as file:
        file.write(f"{'careful' if watch.careful else 'fast'} {os.getpid()}\n")
    attempt = len((folder / "attempts").read_text().splitlines())
    if plan.get("start") == "crash":
        crash()
    found = {}
    for name in "abc":
        if name == "a" and "crash ahead" in plan.values() and not watch.careful:
            watch.result_or_fault(name, crash_ahead)
        does = plan.get(name, "").replace("crash ahead", "crash")
        result, fault = watch.result_or_fault(name, work, name, does, attempt)
        if name == "a" and plan.get("between") == "crash" and not watch.careful:
            crash()
        found[name] = result or fault.words
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[3]), go_on_watched(float(sys.argv[2])))
    print("the stage has ended")
