"""What finished images say of the random effects, beside what the design says."""

from image_longitudinal.core.names import Label
from image_longitudinal.core.section import Section


class Readability(Section):
    """R² of each random effect's η, read back from images; ``eta`` in the order of the random effects.

    ``intervals`` hold 95 % of what other images of the same model would give, if they were computed. ``images`` of
    them were read by ``read_by``: those of the data set (``finished``), or, for a data set of a few subjects, others
    that are generated in the same way.
    """

    read_by: Label
    images: int
    finished: bool
    eta: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...] | None = None

    def share(self, effect: int, level: float) -> float:
        """Share of a random effect's variance that is read from images at association ``level`` (ρ²).

        The effect is ρ·η + √(1 - ρ²)·noise, exactly. So a reading with R² of η explains ρ²·R² of it; a reading that is
        worse than none explains nothing.
        """
        return level * max(0.0, self.eta[effect])

    def share_interval(self, effect: int, level: float) -> tuple[float, float] | None:
        """The 95 % interval of :meth:`share`."""
        if self.intervals is None:
            return None
        low, high = self.intervals[effect]
        return level * max(0.0, low), level * max(0.0, high)
