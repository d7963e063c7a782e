"""Reading ahead and writing behind: the disk is busy in threads of its own while the processor or the GPU computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


def ahead(items: Iterable[T], most: int = 1) -> Iterator[T]:
    """Hand on `items` in order; the next `most` of them are made in another thread meanwhile.

    An error of theirs comes out in its place.
    """
    source = iter(items)
    with ThreadPoolExecutor(1) as reader:
        waiting = deque(reader.submit(next, source, _END) for _ in range(most))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(reader.submit(next, source, _END))
            yield item


class Behind:
    """Does calls in order in one other thread while their caller goes on; for use in a `with` statement.

    At most `most` calls wait, so memory stays small. An error comes out at a later call, or at the end.
    """

    def __init__(self, most: int = 1) -> None:
        self._most = most
        self._writer = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def __call__(self, call: Callable[..., None], *arguments: Any) -> None:
        """Have `call` done with `arguments`."""
        while len(self._waiting) >= self._most:
            self._waiting.popleft().result()
        self._waiting.append(self._writer.submit(call, *arguments))

    def wait(self) -> None:
        """Wait until all is done; an error of a call comes out."""
        while self._waiting:
            self._waiting.popleft().result()

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.shutdown(cancel_futures=kind is not None)
        if kind is None:
            self.wait()
