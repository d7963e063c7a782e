"""Several items at once, each in a thread of its own: while one waits for the disk or a GPU, another computes."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def side_by_side(calls: Iterable[Callable[[], T]], most: int) -> Generator[Callable[[], T], None, None]:
    """Hand on, in order, what gives each call's result; at most `most` of them are under way at a time.

    With 1, a call is made when its result is asked for. An error of a call comes out where its result is asked for.
    Close it where it is left early: then nothing is under way any more.
    """
    if most == 1:
        yield from calls
        return
    pool = ThreadPoolExecutor(most)
    try:
        waiting = deque[Callable[[], T]]()
        for call in calls:
            waiting.append(pool.submit(call).result)
            if len(waiting) == most:
                yield waiting.popleft()
        yield from waiting
    finally:
        pool.shutdown(cancel_futures=True)
