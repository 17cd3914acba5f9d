"""The gates of a data set: what is known of its image model, before the start; what its images say, before the end."""

from collections.abc import Sequence

from image_longitudinal.core.config import Config
from image_longitudinal.core.gates import Gate, GateKind, accepting, closed
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.tasks.engine.gates import pass_gates
from image_longitudinal.tasks.shards.readability import (
    Recoverability,
    known_recoverability,
    readability,
    readability_gate,
)
from image_longitudinal.tasks.shards.specs import DatasetSpec, Execution
from image_longitudinal.tasks.training.gates import gates_of_version


def dataset_gates(
    config: Config,
    spec: DatasetSpec,
    execution: Execution,
    found: Recoverability | None,
    accept: Sequence[GateKind],
) -> tuple[Gate, ...]:
    """The gates of the registered model, if there is one, and of what images say of the random effects, if known."""
    version = execution.version()
    gates = gates_of_version(version, config.gates, accept) if version else ()
    if found is None:
        return gates
    effects = get_model(spec.outcomes.outcomes.model).random_effect_names
    one = readability_gate(readability(found, spec.outcomes), effects, config.gates)
    return (*gates, *accepting([one], accept))


def check_before_generating(
    config: Config, spec: DatasetSpec, execution: Execution, accept: Sequence[GateKind]
) -> None:
    """Refuse a data set whose model is not good enough before hours of generation, not after.

    Raises:
        RefusedByGateError: a gate of the model is closed, or it is known that its images say too little of an effect.
    """
    gates = dataset_gates(config, spec, execution, known_recoverability(spec.probe, execution), accept)
    if closed(gates):
        pass_gates(gates, "data set", "no data set is generated")
