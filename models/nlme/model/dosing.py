"""Doses and observation times of one design."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ConfigError


@dataclass(frozen=True)
class Dose:
    """``amount`` into a compartment at ``time``: at once (``duration`` 0) or by infusion at a constant rate.

    Raises:
        ConfigError: a value that is not finite, or a negative amount or duration.
    """

    time: float
    amount: float
    compartment: str | int = 1
    duration: float = 0.0

    def __post_init__(self) -> None:
        if not np.isfinite([self.time, self.amount, self.duration]).all() or min(self.amount, self.duration) < 0:
            raise ConfigError("impossible dose", expected="finite time, amount ≥ 0, duration ≥ 0", got=self)


def observation_times(times: ArrayLike) -> NDArray[np.float64]:
    """Observation times as float64, shape (T,); ConfigError unless finite and in ascending order (ties allowed)."""
    array = np.ascontiguousarray(times, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ConfigError("unusable observation times", expected="a list of finite numbers", got=times)
    if (np.diff(array) < 0).any():
        row = int(np.argmax(np.diff(array) < 0)) + 1
        raise ConfigError("unsorted observation times", where=f"position {row}", expected="ascending", got=array[row])
    return array
