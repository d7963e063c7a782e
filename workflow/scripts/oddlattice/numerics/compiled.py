"""Loops over pixels as machine code, by numba: where numpy would pass over memory many times.

A kernel is compiled at its first call, for the one signature that its decorator states, and kept beside its module:
later processes load it in some ms, after numba itself (0.6 s of processor time, so a process that calls no kernel does
not import it). A fork server loads all of them once (`load_kernels`), for all its children. Neither fastmath nor
parallel: the same input gives the same bytes on any number of cores.
"""

import fcntl
import importlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., object])

#: Over 0 a number is infinite or nan, as numpy has it: a loop that may raise is not done with the processor's vectors.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}

_kernels: "list[_Kernel]" = []


class _Kernel:
    """A function and its machine code, made or loaded when it is first needed."""

    def __init__(self, function: Callable[..., object], signature: str) -> None:
        update_wrapper(self, function)
        self._function, self._signature = function, signature

    def __call__(self, *arguments: object) -> object:
        return self.machine(*arguments)

    @cached_property
    def machine(self) -> Any:
        import numba

        try:
            return numba.njit(self._signature, cache=True, **OPTIONS)(self._function)
        except (RuntimeError, OSError, EOFError):
            # No folder can be written (numba tries the module's own, then the home), the disk is full, or what was kept
            # is damaged: compiled in every process then, some seconds.
            return numba.njit(self._signature, **OPTIONS)(self._function)

    @property
    def _numba_type_(self) -> object:
        """What numba takes this for where another kernel calls it."""
        import numba

        return numba.types.Dispatcher(self.machine)


def compiled(signature: str) -> Callable[[Function], Function]:
    """Decorate a function on arrays so that it runs as machine code.

    Parameters
    ----------
    signature : str
        As numba writes it: "float32[:, ::1](float32[:, ::1], float64)", with `::1` where an axis must be contiguous.
        Arguments of other types are refused with a TypeError; keywords are not taken. Kernels that a kernel calls stand
        in the same module: what is kept is made anew when the text of the module changes.
    """

    def declared(function: Function) -> Function:
        kernel = _Kernel(function, signature)
        _kernels.append(kernel)
        return cast("Function", kernel)

    return declared


def load_kernels() -> None:
    """Compile or load the kernels of all modules imported so far; one process at a time compiles, the others load."""
    if not _kernels:
        return
    with open(__file__, "rb") as lock:
        with suppress(OSError):  # a file system without locks: each compiles for itself
            fcntl.flock(lock, fcntl.LOCK_EX)
        for kernel in _kernels:
            _ = kernel.machine


def each_kernel() -> Iterator[None]:
    """Compile or load the same, one at each step."""
    for kernel in _kernels:
        _ = kernel.machine
        yield


def compile_all() -> None:
    """Compile the kernels of all modules of the package, so that no job has to."""
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        if "\n@compiled(" in path.read_text(encoding="utf-8"):
            importlib.import_module(".".join(path.relative_to(Path(__file__).parents[2]).with_suffix("").parts))
    load_kernels()
