"""State that gunicorn's master and its workers share: a number per worker."""

import mmap
from array import array

_MAX_WORKERS = 1024


def per_worker(initial: int) -> memoryview:
    """Allocate a shared number for each worker, indexed by the worker's own number.

    It must be called when a module is imported: gunicorn's master imports the worker's modules
    before it forks, so that all workers inherit the same memory.

    :param initial: the value until a worker sets its own.
    """
    numbers = memoryview(mmap.mmap(-1, 4 * _MAX_WORKERS)).cast("i")
    numbers[:] = array("i", [initial]) * _MAX_WORKERS
    return numbers
