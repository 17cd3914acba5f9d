"""Observations of a population with every subject's own times and doses, flat arrays cut by offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.errors import ConfigError
from models.nlme.dosing import Dose, Schedule, observation_times
from models.nlme.structural import StructuralModel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PopulationData:
    """Observations and schedules of n subjects.

    Subject i has the observations ``row_start[i]:row_start[i+1]`` of ``times``, ``observed`` and ``before`` (N,) (how
    many of its breakpoints come before), and the breakpoints ``event_start[i]:event_start[i+1]`` of ``when`` (E,),
    ``bolus`` and ``rate`` (E, states), as in :class:`models.nlme.dosing.Schedule`. ``ids`` (n,).
    """

    ids: IntArray
    row_start: IntArray
    times: FloatArray
    observed: FloatArray
    before: IntArray
    event_start: IntArray
    when: FloatArray
    bolus: FloatArray
    rate: FloatArray

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of_design(
        cls,
        model: StructuralModel,
        observed: ArrayLike,
        times: ArrayLike,
        doses: Sequence[Dose],
        *,
        ids: ArrayLike | None = None,
    ) -> PopulationData:
        """Subjects that share one design; ``observed`` (n, T).

        Raises:
            ConfigError: shapes that do not fit, observations that are not finite, unusable times or doses.
        """
        at = observation_times(times)
        values = np.ascontiguousarray(observed, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(at):
            raise ConfigError("observations do not fit the times", expected=f"shape (n, {len(at)})", got=values.shape)
        if not np.isfinite(values).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise ConfigError("missing or infinite observation", where=f"subject row {row}, time {at[column]:g}")
        n, schedule = len(values), Schedule.of(doses, model)
        events = len(schedule.when)
        return cls(
            ids=np.arange(n) if ids is None else np.asarray(ids, dtype=np.int64),
            row_start=np.arange(n + 1) * len(at),
            times=np.tile(at, n),
            observed=values.ravel(),
            before=np.tile(np.searchsorted(schedule.when, at, side="right").astype(np.int64), n),
            event_start=np.arange(n + 1) * events,
            when=np.tile(schedule.when, n),
            bolus=np.tile(schedule.bolus, (n, 1)),
            rate=np.tile(schedule.rate, (n, 1)),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[PopulationData]) -> PopulationData:
        """The subjects of all parts, in order."""

        def stacked(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in parts])

        def offsets(name: str) -> IntArray:
            counts = np.concatenate([np.diff(getattr(part, name)) for part in parts])
            return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

        names = ("ids", "times", "observed", "before", "when", "bolus", "rate")
        return cls(row_start=offsets("row_start"), event_start=offsets("event_start"), **{n: stacked(n) for n in names})

    def subset(self, start: int, stop: int) -> PopulationData:
        """Subjects start..stop as views of the same arrays."""
        rows = slice(self.row_start[start], self.row_start[stop])
        events = slice(self.event_start[start], self.event_start[stop])
        return replace(
            self,
            ids=self.ids[start:stop],
            row_start=self.row_start[start : stop + 1] - self.row_start[start],
            times=self.times[rows],
            observed=self.observed[rows],
            before=self.before[rows],
            event_start=self.event_start[start : stop + 1] - self.event_start[start],
            when=self.when[events],
            bolus=self.bolus[events],
            rate=self.rate[events],
        )

    def take(self, positions: ArrayLike) -> PopulationData:
        """The subjects at some positions, in that order."""
        return PopulationData.concatenate([self.subset(i, i + 1) for i in np.asarray(positions, dtype=np.int64)])

    @property
    def subject_of_row(self) -> IntArray:
        """Position of each observation's subject, (N,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.row_start))
