"""What finished images say of the random effects: all of it where z made them, nothing where it did not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from image_longitudinal.core.config import Config, OutcomesConfig
from image_longitudinal.core.digest import SEAL
from image_longitudinal.core.errors import RefusedByGateError
from image_longitudinal.core.gates import accepting, require_open
from image_longitudinal.core.presets import load_config
from image_longitudinal.core.random import subject_seeds
from image_longitudinal.models.design.association import draw_latents
from image_longitudinal.models.imaging.backends import describe
from image_longitudinal.models.imaging.phantom import render
from image_longitudinal.models.nlme.library import get_model, register
from image_longitudinal.storage.dataset.card import render_card
from image_longitudinal.storage.dataset.images import create_image_arrays, write_image_shard
from image_longitudinal.storage.dataset.manifest import RootManifest, render_manifest
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.run_claim import begin_run
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.reports.dataset_report import achieved_association, write_report
from image_longitudinal.tasks.shards.gates import check_before_generating, dataset_gates
from image_longitudinal.tasks.shards.parts import make_outcomes
from image_longitudinal.tasks.shards.publish import read_images, unpublished_manifest
from image_longitudinal.tasks.shards.readability import Recoverability, effect_weights, readability
from image_longitudinal.tasks.shards.specs import DatasetSpec, Execution, ImageSpec, OutcomeSpec
from image_longitudinal.tasks.workspace import Workspace

N, SIDE = 96, 32


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config("demo", None, (
        "generator.backend=phantom", f"generator.image_size={SIDE}", "generator.latent_dim=6", "probe.n_images=96",
        f"dataset.n_subjects={N}", f"dataset.shard_size={N}", "dataset.eta_dims=[0, 1, 2]",
    ))  # fmt: skip


@pytest.fixture(scope="module")
def spec(config: Config) -> DatasetSpec:
    described = describe(config.generator, None)
    return DatasetSpec.of(config, ImageSpec.of(config, described), OutcomeSpec.of(config, 6, (0, 1, 2)), None)


def found_in(folder: Path, config: Config, spec: DatasetSpec, order: np.ndarray) -> Recoverability:
    """What is read from a data set whose images are those of the subjects in another order."""
    root, execution = open_root(folder), Execution.of(config, None, Workspace(Path("none")))
    begin_run(root, spec.digest, config.recorded)
    arrays = create_image_arrays(root, n=N, height=SIDE, width=SIDE, latent_dim=6, shard_size=N)
    latents, seeds = draw_latents(config.seed, range(N), 6), subject_seeds(config.seed, np.arange(N))
    images = render(latents[order], seeds, SIDE)
    write_image_shard(root, spec.plan.shard(0), [images], latents, shard_size=N)
    return read_images.fn(root.url, spec, execution, [], list(arrays))


def test_a_data_set_whose_images_say_nothing_of_z_is_refused_and_passes_on_purpose(
    tmp_path: Path, config: Config, spec: DatasetSpec
) -> None:
    execution = Execution.of(config, None, Workspace(Path("none")))
    check_before_generating(config, spec, execution, ())  # of a phantom nothing is known before there are images
    good = found_in(tmp_path / "good", config, spec, np.arange(N))
    assert (good.read_by, good.images, good.finished) == ("regression", N, True)
    gates = dataset_gates(config, spec, execution, good, ())
    require_open(gates, "published")
    assert [(one.kind, one.verdict) for one in gates] == [("recoverability", "passed")]

    worthless = found_in(tmp_path / "worthless", config, spec, np.random.default_rng(0).permutation(N))
    gates = dataset_gates(config, spec, execution, worthless, ())
    with pytest.raises(RefusedByGateError, match=r"η of \S+, the least readable, read back from finished images"):
        require_open(gates, "the data set is not published")
    (accepted,) = dataset_gates(config, spec, execution, worthless, ("recoverability",))
    assert accepted.verdict == "accepted on purpose"
    assert accepting(gates, ["fidelity"]) == gates, "another kind opens nothing"


def test_the_share_of_an_effect_that_is_read_is_the_designed_one_times_r_squared(spec: DatasetSpec) -> None:
    figures = Recoverability([0.9, -0.2, 0.5, 0, 0, 0], "encoder", 128, True, [(0.8, 1.0)] * 6)
    found = readability(figures, spec.outcomes)
    assert found.eta == (0.9, -0.2, 0.5)
    assert found.share(0, 0.5) == pytest.approx(0.45)
    assert found.share(1, 1.0) == 0, "a reading that is worse than none reads nothing"
    assert found.share_interval(2, 0.1) == pytest.approx((0.08, 0.1))
    unknown = readability(figures._replace(intervals=None), spec.outcomes)
    assert unknown.share_interval(0, 0.5) is None


def test_mixed_effects_take_r_squared_of_their_dimensions_by_share_of_variance() -> None:
    """η_2 = 0.6 z_1 + 0.8 z_2: 36 % of its variance is that of the first dimension."""
    model = get_model("depot-central-mm")
    mixed = ((1.0, 0.6, 0.0), (0.6, 1.0, 0.0), (0.0, 0.0, 4.0))
    register(replace(model, name="mixed-effects-of-a-test", omega=mixed))
    weights = effect_weights(OutcomesConfig(model="mixed-effects-of-a-test"))
    np.testing.assert_allclose(weights, [[1, 0, 0], [0.36, 0.64, 0], [0, 0, 1]], atol=1e-12)


def test_report_and_card_put_what_is_read_beside_the_design(tmp_path: Path, config: Config, spec: DatasetSpec) -> None:
    found_in(tmp_path, config, spec, np.arange(N))
    root, shard = open_root(tmp_path), spec.plan.shard(0)
    make_outcomes.fn(spec.outcomes.of_shard(shard), root.url)
    figures = Recoverability([0.9, 0.8, 0.5, 0, 0, 0], "encoder", 128, True, [(0.4, 0.95)] * 6)
    execution = Execution.of(config, None, Workspace(Path("none")))
    gates = dataset_gates(config, spec, execution, figures, ("recoverability",))
    manifest = unpublished_manifest(root, spec, [], []).model_copy(
        update={"gates": gates, "readability": readability(figures, spec.outcomes)}
    )
    assert read_document_of(manifest) == manifest
    write_report(
        root, manifest, version=None, eta_dims=(0, 1, 2), recoverability=figures.r_squared,
        achieved=achieved_association(Dataset(root, manifest)), shown=config.report,
    )  # fmt: skip
    page, card = (tmp_path / "report.html").read_text(encoding="utf-8"), render_card(Dataset(root, manifest))
    assert page.index("What can be read from the images") < page.index("Images and outcomes")
    assert "<td>0.5</td><td><b>0.2500</b></td><td>0.2000 to 0.4750</td>" in page  # ρ² = 0.5 of R² = 0.5
    assert "Check of the draw: effects against η" in page
    assert "achieved" not in page.lower()
    assert "(R² of η 0.500) | 0.5 | 0.25 | 0.05 |" in card
    for text in (page, card):
        assert "accepted on purpose" in text
        assert "128 of its finished images, read by the image model's encoder" in text.replace("&#39;", "'")
    old = manifest.model_copy(update={"gates": None, "readability": None})
    assert "What can be read" not in render_card(Dataset(root, old))
    assert {"gates", "readability"}.isdisjoint(json.loads(render_manifest(old)))


def read_document_of(manifest: RootManifest) -> RootManifest:
    """The manifest as it comes back from its own text."""
    content = json.loads(render_manifest(manifest))
    return RootManifest.model_validate({name: value for name, value in content.items() if name != SEAL})
