"""Observations of a population, with times, doses and covariates of each subject: flat arrays and offsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.at_risk import with_time_at_risk
from image_longitudinal.models.nlme.data.since_dose import with_time_since_dose
from image_longitudinal.models.nlme.kernels.records import COVARIATES, DOSE, EventArrays
from image_longitudinal.models.nlme.model.dosing import Dose, observation_times
from image_longitudinal.models.nlme.model.structural import StructuralModel, given_covariates

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BY_ROW = ("times", "observed", "before", "endpoint", "censored")
BY_EVENT = ("when", "kind", "compartment", "amount", "rate", "interval", "covariates")


@dataclass(frozen=True, eq=False)
class PopulationData:
    """Observations and events of n subjects.

    Subject i has the rows ``row_start[i]:row_start[i+1]`` of ``times``, ``observed``, ``before`` (number of its
    events that come before), ``endpoint`` (0-based output of the model) and ``censored`` (the value is the limit of
    quantification, and the observation below it), all (N,); and the events ``event_start[i]:event_start[i+1]`` of
    ``when`` (nominal time), ``kind``, ``compartment`` (0-based), ``amount``, ``rate`` (0 at once, > 0 infusion, -1 or
    -2: rate or duration come from the model), ``interval`` (of a dose at steady state), all (E,), and ``covariates``
    (E, 2c): values from then on, and their slopes. Events of a subject are in the order in which they take effect.
    ``labels`` are the subjects' ids where a table has text for them; ``ids`` are numbers then.
    """

    ids: IntArray
    row_start: IntArray
    times: FloatArray
    observed: FloatArray
    before: IntArray
    endpoint: IntArray
    censored: NDArray[np.bool_]
    event_start: IntArray
    when: FloatArray
    kind: IntArray
    compartment: IntArray
    amount: FloatArray
    rate: FloatArray
    interval: FloatArray
    covariates: FloatArray
    labels: tuple[str, ...] | None = None

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
        covariates: Mapping[str, ArrayLike] | None = None,
        endpoint: str | None = None,
    ) -> PopulationData:
        """Subjects that share one design; ``observed`` (n, T).

        Args:
            model: the structural model.
            observed: values (n, T) at ``times`` (T,).
            times: observation times, ascending.
            doses: doses of every subject.
            ids: subject ids (n,); 0, 1, ... if None.
            covariates: values of the model's covariates that do not change with time, each (n,) or a number.
            endpoint: which of the model's endpoints is observed; the first if None.

        Raises:
            ConfigError: shapes that do not fit, observations that are not finite, unusable times or doses, a
                covariate that is missing.
        """
        at = observation_times(times)
        values = np.ascontiguousarray(observed, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(at):
            raise ConfigError("observations do not fit the times", expected=f"shape (n, {len(at)})", got=values.shape)
        if not np.isfinite(values).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise ConfigError("missing or infinite observation", where=f"subject row {row}, time {at[column]:g}")
        n = len(values)
        names = np.arange(n) if ids is None else np.asarray(ids, dtype=np.int64)
        static = _static_covariates(model, covariates or {}, names)
        given = sorted(doses, key=lambda dose: dose.time)
        state = [model.state_index(dose.compartment) for dose in given]
        when = np.array([dose.time for dose in given], dtype=np.float64)
        first = int(static.shape[1] > 0)  # the event that sets the covariates comes first
        count, start = len(given) + first, min(at[0], when.min(initial=at[0]))

        def tiled(of_doses: Any, of_covariates: float, dtype: type = np.float64) -> NDArray[Any]:
            return np.tile(np.concatenate([[of_covariates] * first, of_doses]).astype(dtype), n)

        changes = np.zeros((n, count, 2 * static.shape[1]))
        if first:
            changes[:, 0, : static.shape[1]] = static
        data = cls(
            ids=names,
            row_start=np.arange(n + 1) * len(at),
            times=np.tile(at, n),
            observed=values.ravel(),
            before=np.tile(np.searchsorted(when, at, side="right").astype(np.int64) + first, n),
            endpoint=np.full(n * len(at), 0 if endpoint is None else model.endpoint_index(endpoint)),
            censored=np.zeros(n * len(at), dtype=np.bool_),
            event_start=np.arange(n + 1) * count,
            when=tiled(when, start),
            kind=tiled(np.full(len(given), DOSE), COVARIATES, np.int64),
            compartment=tiled(np.array(state, dtype=float), 0, np.int64),
            amount=tiled([dose.amount for dose in given], 0.0),
            rate=tiled([dose.amount / dose.duration if dose.duration > 0 else 0.0 for dose in given], 0.0),
            interval=tiled(np.zeros(len(given)), 0.0),
            covariates=changes.reshape(n * count, 2 * static.shape[1]),
        )
        return with_time_at_risk(with_time_since_dose(data, model), model, checked=len(at) == 1)

    def at_times(self, times: FloatArray) -> PopulationData:
        """The subjects of one design, each observed at its own times (n, T), ascending in each row.

        Raises:
            ConfigError: times of another shape, not finite, or not ascending.
        """
        n, rows = len(self), np.diff(self.row_start)
        if not n or times.shape != (n, rows[0]) or not np.isfinite(times).all():
            expected = f"finite numbers, shape ({n}, {rows[0] if n else 0})"
            raise ConfigError("unusable observation times", expected=expected, got=times.shape)
        late = np.argwhere(np.diff(times, axis=1) < 0)
        if len(late):
            where = f"subject {self.names[late[0, 0]]}, position {late[0, 1] + 1}"
            raise ConfigError("unsorted observation times", where=where, expected="ascending")
        when = self.when.reshape(n, -1).copy()
        if (self.kind == COVARIATES).any():  # the first event sets the covariates
            when[:, 0] = np.minimum(when[:, 0], times[:, 0])
        before = (when[:, None, :] <= times[:, :, None]).sum(axis=2)
        return replace(self, times=times.ravel(), when=when.ravel(), before=before.ravel())

    @classmethod
    def concatenate(cls, parts: Sequence[PopulationData]) -> PopulationData:
        """The subjects of all parts, in order."""
        stacked = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", *BY_ROW, *BY_EVENT)
        }
        for name in ("row_start", "event_start"):
            counts = np.concatenate([np.diff(getattr(part, name)) for part in parts])
            stacked[name] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        named = any(part.labels for part in parts)
        labels = tuple(str(name) for part in parts for name in part.names) if named else None
        return cls(**stacked, labels=labels)

    def subset(self, start: int, stop: int) -> PopulationData:
        """Subjects start..stop as views of the same arrays."""
        rows = slice(self.row_start[start], self.row_start[stop])
        events = slice(self.event_start[start], self.event_start[stop])
        return replace(
            self,
            ids=self.ids[start:stop],
            row_start=self.row_start[start : stop + 1] - self.row_start[start],
            event_start=self.event_start[start : stop + 1] - self.event_start[start],
            labels=self.labels and self.labels[start:stop],
            **{name: getattr(self, name)[rows] for name in BY_ROW},
            **{name: getattr(self, name)[events] for name in BY_EVENT},
        )

    def take(self, positions: ArrayLike) -> PopulationData:
        """The subjects at some positions, in that order."""
        return PopulationData.concatenate([self.subset(i, i + 1) for i in np.asarray(positions, dtype=np.int64)])

    def without_censored(self) -> PopulationData:
        """The data without censored rows; all subjects stay."""
        return self.with_rows(~self.censored)

    def with_rows(self, wanted: NDArray[np.bool_]) -> PopulationData:
        """The data with some of the rows, (N,); all subjects and events stay."""
        if wanted.all():
            return self
        rows = {name: getattr(self, name)[wanted] for name in BY_ROW}
        counts = np.bincount(self.subject_of_row[wanted], minlength=len(self))
        return replace(self, row_start=np.concatenate([[0], np.cumsum(counts)]), **rows)

    @property
    def names(self) -> NDArray[np.int64] | NDArray[np.str_]:
        """Each subject's id as its table has it, (n,)."""
        return self.ids if self.labels is None else np.array(self.labels)

    @cached_property
    def arrays(self) -> EventArrays:
        """The arrays for the compiled kernels: contiguous and writable, or kernels would be compiled again."""
        return EventArrays(*(np.require(getattr(self, name), requirements=["C", "W"]) for name in EventArrays._fields))

    @property
    def is_plain(self) -> bool:
        """Whether every event is a dose of known amount and rate, as hand-written kernels require."""
        return bool((self.kind == DOSE).all() and (self.rate >= 0).all())

    @property
    def is_boluses(self) -> bool:
        """Whether every event is a dose of known amount that takes effect at once."""
        return bool((self.kind == DOSE).all() and (self.rate == 0).all())

    @property
    def is_stepwise(self) -> bool:
        """Whether all covariates are constant between events."""
        return not self.covariates[:, self.covariates.shape[1] // 2 :].any()

    @property
    def subject_of_row(self) -> IntArray:
        """Position of each observation's subject, (N,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.row_start))


def _static_covariates(model: StructuralModel, given: Mapping[str, ArrayLike], ids: IntArray) -> FloatArray:
    """Values of the model's covariates for each subject, (n, c); ConfigError if names or values are missing."""
    if set(given) != set(given_covariates(model)):
        wanted = ", ".join(given_covariates(model)) or "none"
        raise ConfigError(f"covariates do not fit model {model.name!r}", expected=wanted, got=sorted(given))
    out = np.empty((len(ids), len(given_covariates(model))))
    for column, name in enumerate(given_covariates(model)):
        out[:, column] = np.asarray(given[name], dtype=np.float64)
        missing = np.flatnonzero(~np.isfinite(out[:, column]))
        if len(missing):
            raise ConfigError(f"covariate {name!r} is missing for a subject", where=f"subject {ids[missing[0]]}")
    return out
