"""Functions that only other compiled functions call: how they are compiled, and loops over small arrays."""

from collections.abc import Callable
from typing import Any, TypeAlias

from numba import njit

Compiled: TypeAlias = Callable[..., Any]

# Without entry points from Python and C, which would only add compile time.
compiled = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


@compiled
def assign(target, source):  # type: ignore[no-untyped-def]
    """target ← source, (n,); a loop, because array expressions take numba a hundred times longer to compile."""
    for i in range(target.size):
        target[i] = source[i]


@compiled
def assign2(target, source):  # type: ignore[no-untyped-def]
    """target ← source, (n, m)."""
    for i in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[i, j] = source[i, j]


@compiled
def norm(a):  # type: ignore[no-untyped-def]
    """The largest sum of absolute values in a row of a (n, n)."""
    largest = 0.0
    for i in range(a.shape[0]):
        total = 0.0
        for j in range(a.shape[1]):
            total += abs(a[i, j])
        largest = max(largest, total)
    return largest
