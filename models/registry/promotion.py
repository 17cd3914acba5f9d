"""Promotion: a candidate becomes production if no named metric is worse on the same held-out images.

Distances in features are compared only if the same network gave the features to both: the same judge, or, for models
that no judge has seen, the same encoder.
"""

from collections.abc import Sequence
from typing import NamedTuple

from image_longitudinal.core.digest import SHORT
from image_longitudinal.core.errors import ModelError, RefusedByGateError
from image_longitudinal.core.gates import GateKind, GatesConfig, accepting, require_open
from image_longitudinal.models.registry.gates import model_gates
from image_longitudinal.models.registry.registry import PRODUCTION, ModelVersion, Registry

# 1: higher is better; -1: lower is better. See models.registry.metadata.ModelMetadata.metrics.
DIRECTION = {
    "recoverability": 1, "fd": -1, "kid": -1, "precision": 1, "recall": 1, "density": 1, "coverage": 1,
    "classifier_auc": -1, "near_copies": -1, "nearest_ratio": 1, "validation_mse": -1,
}  # fmt: skip
IN_FEATURES = frozenset({"fd", "kid", "precision", "recall", "density", "coverage", "classifier_auc"})
GATE = ("recoverability", "fd")  # what a data set depends on: images hold z, and look like real ones


class Comparison(NamedTuple):
    """One metric of two versions; ``allowed`` is the tolerated worsening, in the metric's unit."""

    metric: str
    candidate: float
    production: float
    allowed: float = 0.0

    @property
    def no_worse(self) -> bool:
        """Whether the candidate is at least as good, within the tolerance."""
        return (self.candidate - self.production) * DIRECTION[self.metric] >= -self.allowed

    def __str__(self) -> str:
        verdict = "no worse" if self.no_worse else "worse"
        return f"{self.metric} {self.candidate:.4g}, production {self.production:.4g}: {verdict}"


def compare(
    candidate: ModelVersion, production: ModelVersion, metrics: Sequence[str] = GATE, tolerance: float = 0.0
) -> list[Comparison]:
    """Compare two versions by ``metrics``, keys of :data:`DIRECTION`.

    ``tolerance`` is a worsening to ignore, as a fraction of production's value: these figures are noisy.

    Raises:
        ModelError: a metric is unknown or was not measured, or the two were measured on different held-out images or in
            the features of different networks.
    """
    if candidate.metadata.measured.held_out != production.metadata.measured.held_out:
        raise ModelError(
            "the two models were not measured on the same held-out images",
            where=f"{candidate.version} and production, {production.version}",
            do="train both on the same images, or promote with --force",
        )
    figures = [(name, _figure(candidate, name), _figure(production, name)) for name in metrics]
    if (compared := IN_FEATURES & set(metrics)) and not same_features(candidate, production):
        raise ModelError(
            f"{', '.join(sorted(compared))} of the two models are not of the same judge",
            where=f"{candidate.version} and production, {production.version}",
            expected=_features(production), got=_features(candidate),
            do="measure both with image-longitudinal models measure and the same --judge (the extra judge), choose "
            "other metrics, or promote with --force",
        )  # fmt: skip
    return [Comparison(name, new, current, tolerance * abs(current)) for name, new, current in figures]


def promote(
    registry: Registry,
    name: str,
    metrics: Sequence[str] = GATE,
    *,
    tolerance: float = 0.0,
    force: bool = False,
    accept: Sequence[GateKind] = (),
) -> list[Comparison]:
    """Point ``production`` to a version (or alias) if :func:`compare` finds it no worse than the current one.

    All its gates must be open too, also if it is the first version. ``accept`` opens those of these kinds, which is
    recorded; ``force`` skips gates and comparison.

    Returns the comparisons; none for the first version, or with ``force``.

    Raises:
        RefusedByGateError: it is worse in some metric, or a gate is closed; the alias is then unchanged.
        ModelError: it cannot be compared; likewise.
    """
    candidate = registry.get(name)
    gates = accepting(candidate.gates or model_gates(candidate.metadata.measured, GatesConfig()), accept)
    comparisons: list[Comparison] = []
    current = registry.aliases().get(PRODUCTION)
    if current is not None and not force and registry.get(current) != candidate:
        comparisons = compare(candidate, registry.get(current), metrics, tolerance)
        if worse := [str(one) for one in comparisons if not one.no_worse]:
            do = "keep production, choose another --metric, or promote with --force"
            raise RefusedByGateError(
                f"model {candidate.version} is worse than production: {'; '.join(worse)}", where=current, do=do
            )
    if not force:
        require_open(gates, f"model {candidate.version} is not promoted")
    if accept:
        registry.record_gates(candidate, gates)
    registry.set_alias(PRODUCTION, candidate.version)
    return comparisons


def same_features(one: ModelVersion, other: ModelVersion) -> bool:
    """Whether the same network gave the features in which the two versions were compared with real images."""
    return _features(one) == _features(other)


def _features(version: ModelVersion) -> str:
    judged = version.metadata.measured.judgement
    if judged is not None:
        return f"judge {judged.judge.name} {judged.judge.digest[:SHORT]}"
    return f"its own encoder {version.files.get('vae.safetensors', version.digest)[:SHORT]}"


def _figure(version: ModelVersion, name: str) -> float:
    if name not in DIRECTION:
        raise ModelError("no such metric", expected=f"one of {', '.join(DIRECTION)}", got=name)
    value = version.metadata.metrics.get(name)
    if value is None:
        do = "hold out more images in training, choose other metrics, or promote with --force"
        raise ModelError(f"{name} was not measured for a model", where=version.version, do=do)
    return value
