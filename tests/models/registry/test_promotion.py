"""Promotion: the first is promoted, a worse one is not, and only figures of the same images are compared."""

from pathlib import Path

import pytest
import torch

from image_longitudinal.core.errors import ModelError, RefusedByGateError
from image_longitudinal.models.registry.promotion import promote
from image_longitudinal.models.registry.registry import ModelVersion, Registry
from tests.models.conftest import model_metadata


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def register(
    registry: Registry,
    recoverability: float,
    fd: float | None,
    held_out: str = "a",
    judge: str | None = None,
    weight: float = 0.0,
) -> ModelVersion:
    metadata = model_metadata(recoverability=recoverability, fd=fd, held_out=held_out, judge=judge)
    return registry.register({"vae": {"a": torch.full((1,), weight)}}, metadata, "")


BOTH = ("recoverability", "fd")


@pytest.mark.parametrize(
    ("recoverability", "fd", "accepted"),
    [(0.95, 2.0, True), (0.91, 1.5, True), (0.9, 2.5, False), (0.85, 1.0, False), (0.89, 3.0, False)],
)
def test_after_the_first_it_must_be_no_worse_in_every_metric(
    registry: Registry, recoverability: float, fd: float, accepted: bool
) -> None:
    first, second = register(registry, 0.9, 2.0), register(registry, recoverability, fd)
    assert promote(registry, first.version) == []
    assert registry.get("production") == first
    if accepted:
        assert [one.metric for one in promote(registry, second.version, BOTH)] == list(BOTH)
    else:
        with pytest.raises(RefusedByGateError, match="is worse than production") as refused:
            promote(registry, second.version, BOTH)
        assert refused.value.exit_status == 4
    assert registry.get("production") == (second if accepted else first)


def test_a_tolerance_forgives_noise_only(registry: Registry) -> None:
    promote(registry, register(registry, 0.9, 2.0).version)
    promote(registry, register(registry, 0.89, 2.03).version, BOTH, tolerance=0.02)
    with pytest.raises(ModelError, match=r"recoverability 0\.81, production 0\.89: worse"):
        promote(registry, register(registry, 0.81, 2.03).version, BOTH, tolerance=0.02)


def test_other_held_out_images_and_missing_figures_compare_with_nothing(registry: Registry) -> None:
    first = register(registry, 0.8, 2.0)
    promote(registry, first.version)
    with pytest.raises(ModelError, match="not measured on the same held-out images"):
        promote(registry, register(registry, 0.9, 1.0, "b").version)
    unmeasured = register(registry, 0.9, None)
    with pytest.raises(ModelError, match="fd was not measured"):
        promote(registry, unmeasured.version, BOTH)
    with pytest.raises(ModelError, match="no such metric; expected one of recoverability"):
        promote(registry, unmeasured.version, ["beauty"])
    assert registry.get("production") == first
    promote(registry, unmeasured.version, force=True)
    assert registry.get("production") == unmeasured


def test_distances_in_the_features_of_different_networks_are_never_compared(registry: Registry) -> None:
    """A worse model looked better than production because its own encoder saw less: now the two do not compare."""
    promote(registry, register(registry, 0.8, 2.0, judge="j" * 64).version)
    better = register(registry, 0.9, 1.0, judge="j" * 64, weight=1.0)
    assert [one.candidate for one in promote(registry, better.version, BOTH)] == [0.9, 1.0]
    for other in (register(registry, 0.9, 0.5, judge="k" * 64), register(registry, 0.9, 0.5, weight=2.0)):
        with pytest.raises(ModelError, match=r"fd of the two models are not of the same judge .*models measure"):
            promote(registry, other.version, BOTH)
        assert [one.no_worse for one in promote(registry, other.version, ["recoverability"])] == [True]
        promote(registry, better.version, force=True)


def test_models_that_no_judge_has_seen_compare_in_features_with_the_same_encoder_only(registry: Registry) -> None:
    promote(registry, register(registry, 0.8, 2.0).version)
    assert len(promote(registry, register(registry, 0.9, 1.0).version, BOTH)) == 2
    with pytest.raises(ModelError, match=r"expected its own encoder \w+; got its own encoder \w+"):
        promote(registry, register(registry, 0.9, 0.5, weight=1.0).version, BOTH)
