"""Functions that only compiled ones call, for tests."""

from functools import lru_cache
from typing import Any

from numba import njit


@lru_cache(maxsize=64)
def from_python(function: Any) -> Any:
    """The function, callable from Python."""

    @njit(error_model="numpy")
    def call(*arguments):  # type: ignore[no-untyped-def]
        return function(*arguments)

    return call
