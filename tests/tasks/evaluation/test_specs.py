"""Stages are computed again exactly when a setting that decides their product changes."""

from typing import Any

import numpy as np
import pytest

from image_longitudinal.core.config import EvaluationConfig, ResNetConfig
from image_longitudinal.tasks.evaluation.specs import EvaluationSpec

IDENTITY, LEVELS, NETWORK = "0" * 64, (1.0, 0.1), ResNetConfig(steps=5)
PREDICTORS = {"predictors", "null"}
# Every field of the configuration, another value, and the stages that depend on it directly (with a PCA regressor).
DECIDES = {
    "levels": ((1.0,), {"design"}),
    "population": ("foce", {"population"}),
    "fit_subjects": (80, {"population"}),
    "latent_regressor": ("encoder", set()),  # the encoder's digest decides, see below
    "components": (50, {"reading"}),
    "products": (20, {"reading"}),
    "folds": (3, PREDICTORS),
    "rounds": (2, PREDICTORS),
    "resnet": (ResNetConfig(steps=9), {"resnet"}),
    "bootstrap": (100, {"scores", "null"}),
    "visits": ((0, 3), {"scores"}),
    "residual_subjects": (60, {"design"}),
}


def digests(settings: EvaluationConfig, dataset: str = IDENTITY, encoder: str | None = None) -> dict[str, str]:
    spec = EvaluationSpec.of(dataset, settings, settings.levels or LEVELS, encoder)
    return {name: part.digest for name in EvaluationSpec.model_fields if (part := getattr(spec, name)) is not None}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def changed_by(settings: EvaluationConfig, **update: Any) -> set[str]:
    return changed(digests(settings), digests(settings.model_copy(update=update)))


@pytest.mark.parametrize("field", EvaluationConfig.model_fields)
def test_a_setting_changes_the_stages_that_it_decides(field: str) -> None:
    value, stages = DECIDES[field]
    assert changed_by(EvaluationConfig(resnet=NETWORK), **{field: value}) == stages


@pytest.mark.parametrize("field", ResNetConfig.model_fields)
def test_every_setting_of_the_network_decides_its_predictions(field: str) -> None:
    other = {"steps": 7, "batch_size": 8, "width": 0.5, "mixed_precision": "bf16"}
    network = NETWORK.model_copy(update={field: other[field]})
    assert changed_by(EvaluationConfig(resnet=NETWORK), resnet=network) == {"resnet"}


def test_what_a_stage_does_not_use_does_not_change_it() -> None:
    assert not changed_by(EvaluationConfig(population="known"), fit_subjects=7)
    settings = EvaluationConfig()
    more = settings.model_copy(update={"components": 7, "products": 2})
    assert not changed(digests(settings, encoder="a"), digests(more, encoder="a"))
    assert changed(digests(settings), digests(settings, encoder="a")) == {"reading"}
    assert "resnet" not in digests(settings)


def test_no_two_stages_or_data_sets_share_a_key() -> None:
    settings = EvaluationConfig(resnet=NETWORK)
    ours, others = digests(settings), digests(settings, dataset="1" * 64)
    assert len(np.unique([*ours.values(), *others.values()])) == 2 * len(EvaluationSpec.model_fields)
