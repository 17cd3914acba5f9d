"""When a candidate may take production's place: no worse in the named metrics, measured on the same held-out images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.registry.registry import PRODUCTION, ModelVersion, Registry

# 1: higher is better; -1: lower is better. What each is: models/quality/fidelity.py.
DIRECTION = {
    "recoverability": 1,
    "fd": -1,
    "kid": -1,
    "precision": 1,
    "recall": 1,
    "density": 1,
    "coverage": 1,
    "nearest_ratio": 1,
    "validation_mse": -1,
}
GATE = ("recoverability", "fd")  # what a data set lives by: the images hold z, and look like the real ones


@dataclass(frozen=True)
class Comparison:
    """One metric of two versions; ``allowed`` is the worsening that was tolerated, in the metric's unit."""

    metric: str
    candidate: float
    production: float
    allowed: float = 0.0

    @property
    def no_worse(self) -> bool:
        """Whether the candidate is at least as good, up to what is allowed."""
        return (self.candidate - self.production) * DIRECTION[self.metric] >= -self.allowed

    def __str__(self) -> str:
        verdict = "no worse" if self.no_worse else "worse"
        return f"{self.metric} {self.candidate:.4g}, production {self.production:.4g}: {verdict}"


def compare(
    candidate: ModelVersion, production: ModelVersion, metrics: Sequence[str] = GATE, tolerance: float = 0.0
) -> list[Comparison]:
    """Two versions metric by metric.

    Args:
        candidate, production: what to compare.
        metrics: names, keys of :data:`DIRECTION`.
        tolerance: worsening that counts as none, as a share of production's value (such figures carry noise).

    Raises:
        ModelError: a metric is unknown or was not measured, or the two were measured on different held-out images.
    """
    first, second = candidate.metadata.get("held_out"), production.metadata.get("held_out")
    if first is None or first != second:
        raise ModelError(
            "the two models were not measured on the same held-out images",
            where=f"{candidate.version} and production, {production.version}",
            do="train both on the same images, or promote by decision with --force",
        )
    return [
        Comparison(
            name,
            _figure(candidate, name),
            _figure(production, name),
            tolerance * abs(_figure(production, name)),
        )
        for name in metrics
    ]


def promote(
    registry: Registry, name: str, metrics: Sequence[str] = GATE, *, tolerance: float = 0.0, force: bool = False
) -> list[Comparison]:
    """Let ``production`` point to a version if it is no worse than the present one; the first needs no comparison.

    Args:
        registry: where both are.
        name: version or alias.
        metrics, tolerance: see :func:`compare`.
        force: promote whatever the figures say.

    Returns:
        The comparisons that were made; none for the first version, or with ``force``.

    Raises:
        ModelError: it is worse in some metric, or cannot be compared; the alias then stays as it is.
    """
    candidate = registry.get(name)
    comparisons: list[Comparison] = []
    present = registry.aliases().get(PRODUCTION)
    if present is not None and not force and registry.get(present) != candidate:
        comparisons = compare(candidate, registry.get(present), metrics, tolerance)
        if worse := [str(one) for one in comparisons if not one.no_worse]:
            raise ModelError(
                f"model {candidate.version} is worse than production: {'; '.join(worse)}",
                where=present,
                do="keep it as it is, name other --metric, or promote by decision with --force",
            )
    registry.set_alias(PRODUCTION, candidate.version)
    return comparisons


def _figure(version: ModelVersion, name: str) -> float:
    if name not in DIRECTION:
        raise ModelError("no such metric", expected=f"one of {', '.join(DIRECTION)}", got=name)
    value = version.metadata.get("metrics", {}).get(name)
    if value is None:
        raise ModelError(
            f"{name} was not measured for a model",
            where=version.version,
            do="train it with this version of the code, name other metrics, or promote with --force",
        )
    return float(value)
