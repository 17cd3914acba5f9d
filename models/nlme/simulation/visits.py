"""Visits of a trial: jitter around planned times, missed visits, dropout."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.random import stream_key, uniforms
from image_longitudinal.models.nlme.model.dosing import observation_times


@dataclass(frozen=True)
class Visits:
    """A visit schedule and how subjects deviate from it.

    ``times`` (T,) are planned, ascending. A visit takes place up to ``jitter`` earlier or later (uniform), except the
    first and those at ``fixed`` times (of doses): a sample taken with a dose stays with it. Each visit but the first is
    ``missed`` with this probability, independently. A subject drops out before the last visit with probability
    ``dropout``, at a constant hazard from the first visit on, and misses all visits from then on.

    Raises:
        ConfigError: a probability outside [0, 1), or a jitter that could change the order of visits or doses.
    """

    times: tuple[float, ...]
    fixed: tuple[float, ...] = ()
    jitter: float = 0.0
    missed: float = 0.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("missed", "dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"impossible probability: {name}", expected="[0, 1)", got=getattr(self, name))
        marks = sorted({*observation_times(self.times).tolist(), *self.fixed})
        gap = min((later - earlier for earlier, later in pairwise(marks)), default=np.inf)
        if not 0.0 <= 2.0 * self.jitter < gap:
            expected = f"below half the shortest time between visits and doses, {gap:g} / 2"
            raise ConfigError("impossible jitter of visits", expected=expected, got=self.jitter)

    def draw(self, seed: int, ids: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Times (n, T) and whether each visit took place (n, T); a subject's depend on seed, id and schedule alone."""
        planned = observation_times(self.times)
        n, count = np.size(ids), len(planned)
        # one stream each: switching one on does not change another
        moved, attended, stayed = (
            uniforms(stream_key(seed, "visits", what), ids, size)
            for what, size in (("jitter", count), ("missed", count), ("dropout", 1))
        )
        stays = np.isin(planned, self.fixed)
        stays[0] = True
        times = planned + np.where(stays, 0.0, self.jitter * (2.0 * moved - 1.0))
        seen = attended >= self.missed
        if self.dropout:
            progress = (planned - planned[0]) / max(planned[-1] - planned[0], np.finfo(float).tiny)
            seen &= stayed > 1.0 - (1.0 - self.dropout) ** progress
        seen[:, 0] = True
        return times.reshape(n, count), seen
