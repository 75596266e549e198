"""Threads of this process: torch's own, and those of the linear algebra under numpy and scipy.

Small matrices do not gain from threads, and where several processes share the cores each waits for the others' (the
simulated annotator in two processes on two cores, two threads each: 2.6 times as long as with one).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from threadpoolctl import ThreadpoolController


def limit_threads(threads: int) -> None:
    """From now on torch, numpy and scipy use `threads` threads; libraries that are not loaded yet keep their own."""
    torch.set_num_threads(threads)
    _linear_algebra().limit(limits=threads, user_api="blas")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside the block; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _linear_algebra().limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def _linear_algebra() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  # its library is its own, and is found only once it is loaded

    return ThreadpoolController()
