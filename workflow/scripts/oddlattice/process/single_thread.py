"""The same bytes whatever the number of cores: linear algebra keeps to one thread, work is shared out by image."""

import os

from threadpoolctl import threadpool_limits


def one_thread() -> None:
    """Keep the linear algebra of this process and of its children to one thread: another order of sums, other bytes."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    threadpool_limits(limits=1)
