"""Stages that fail on one image of a shard; they run in the child process of that image."""

import ctypes
import os
import signal
from typing import Any

from oddlattice.model import choice
from oddlattice.process.sandbox import Fault, result_or_fault
from oddlattice.storage.rows import Row


def fail(**job: Any) -> Row:
    if job["image_id"].startswith("f0001"):
        raise ZeroDivisionError("<b>nothing</b> to divide by")
    return choice.tile_one(**job)


def tile_failing(**job: Any) -> tuple[Row, None] | tuple[None, Fault]:
    return result_or_fault(fail, **job)


def tile_crashing(**job: Any) -> tuple[Row, None] | tuple[None, Fault]:
    found = choice.tile_or_tell(**job)  # with its arrays written
    if job["image_id"].startswith("f0001"):
        ctypes.string_at(8)
    return found


def tile_killed(**job: Any) -> tuple[Row, None] | tuple[None, Fault]:
    if job["image_id"].startswith("f0001"):
        os.kill(os.getpid(), signal.SIGKILL)
    return choice.tile_or_tell(**job)


def tile_killed_once(**job: Any) -> tuple[Row, None] | tuple[None, Fault]:
    mark = os.path.join(os.path.dirname(job["images_zarr"]), "killed once")
    if job["image_id"].startswith("f0001") and not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return choice.tile_or_tell(**job)


def tile_on_full_disk(**job: Any) -> tuple[Row, None] | tuple[None, Fault]:
    return result_or_fault(_fill, **job)


def _fill(**job: Any) -> Row:
    raise OSError(28, "No space left on device")
