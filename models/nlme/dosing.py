"""Doses of one design, and the schedule of jumps and infusion rates that the kernels integrate through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.errors import ConfigError
from models.nlme.structural import StructuralModel


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


@dataclass(frozen=True)
class Schedule:
    """Breakpoints of a design, sorted by time.

    ``when`` (E,) times; ``bolus`` (E, states) amounts added at that time; ``rate`` (E, states) infusion rates in force
    from then until the next breakpoint. ``amount`` is the total given, the natural scale of error tolerances.
    """

    when: NDArray[np.float64]
    bolus: NDArray[np.float64]
    rate: NDArray[np.float64]
    amount: float

    @classmethod
    def of(cls, doses: Sequence[Dose], model: StructuralModel) -> Schedule:
        """The schedule of ``doses`` for a model's states; ConfigError for a compartment the model does not have."""
        n = len(model.states)
        ends = [dose.time + dose.duration for dose in doses if dose.duration > 0]
        when = np.unique(np.array([dose.time for dose in doses] + ends, dtype=float))
        bolus, change = np.zeros((len(when), n)), np.zeros((len(when), n))
        for dose in doses:
            state = model.state_index(dose.compartment)
            start = int(np.searchsorted(when, dose.time))
            if dose.duration > 0:
                change[start, state] += dose.amount / dose.duration
                change[np.searchsorted(when, dose.time + dose.duration), state] -= dose.amount / dose.duration
            else:
                bolus[start, state] += dose.amount
        rate = np.cumsum(change, axis=0)
        rate[np.abs(rate) < 1e-12 * np.max(np.abs(change), initial=0.0)] = (
            0.0  # what rounding leaves after the last end
        )
        return cls(when, bolus, rate, float(sum(dose.amount for dose in doses)))


def observation_times(times: ArrayLike) -> NDArray[np.float64]:
    """Observation times as float64, shape (T,); ConfigError unless finite and in ascending order (ties allowed)."""
    array = np.ascontiguousarray(times, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ConfigError("unusable observation times", expected="a list of finite numbers", got=times)
    if (np.diff(array) < 0).any():
        row = int(np.argmax(np.diff(array) < 0)) + 1
        raise ConfigError("unsorted observation times", where=f"position {row}", expected="ascending", got=array[row])
    return array
