"""The plan of a run names each step that will run, and only those."""

import pytest

from image_longitudinal.cli.run_plan import describe_plan
from image_longitudinal.core.presets import load_config, preset_names


def plan_of(*overrides: str, preset: str = "demo", training: bool = True, generation: bool = True) -> str:
    return describe_plan(load_config(preset, overrides=overrides), training=training, generation=generation)


def line(text: str, start: str) -> str:
    return next(each for each in text.splitlines() if each.startswith(start))


@pytest.mark.parametrize("preset", preset_names())
def test_the_plan_of_every_preset_names_every_step(preset: str) -> None:
    config, text = load_config(preset), plan_of(preset=preset)
    phantom = config.generator.backend == "phantom"
    if phantom:
        assert "train diffusion" not in text
    elif config.vae.kind == "flattened":
        assert f"curve and {config.vae.latent_dim - 4} components" in line(text, "fit retina")
    else:
        assert f"{config.vae.steps:,} steps of {config.vae.batch_size}" in line(text, "train VAE")
        assert "MS-SSIM" in line(text, "perceptual loss")
    if not phantom:
        assert f"{config.diffusion.steps:,} steps" in line(text, "train diffusion")
    size = config.diffusion.image_size
    assert f"{config.dataset.n_subjects:,} at {size}x{size}" in line(text, "generate images")
    levels = config.dataset.association
    rows = config.dataset.n_subjects * len(levels) * 22  # 21 times and a dose
    assert f"{rows:,} rows" in line(text, "outcomes")
    assert ", ".join(map(str, levels)) in line(text, "outcomes")
    assert "about" in line(text, "time")


def test_the_plan_counts_shards_and_splits() -> None:
    assert line(plan_of(), "in shards").endswith("5 of 128 subjects (512 train, 64 validation, 64 test)")
    assert "(512 train, 128 test)" in plan_of("dataset.validation_fraction=0", "dataset.test_fraction=0.2")


def test_the_plan_names_only_what_will_run() -> None:
    phantom = plan_of("generator.backend=phantom", "generator.image_size=48")
    assert "train" not in phantom.replace("512 train", "")
    assert "48x48 (phantom)" in phantom
    vae = plan_of("generator.backend=vae", "vae.image_size=96")
    assert "fit retina" in vae
    assert "diffusion" not in vae
    assert "96x96 (vae)" in vae
    assert "outcomes" not in plan_of(generation=False)
    assert "fit retina" not in plan_of(training=False)
    assert "centred 4 steps" in plan_of()


def test_the_estimated_time_grows_with_the_work() -> None:
    assert " min " in line(plan_of(), "time")
    assert " s on" in line(plan_of("generator.backend=phantom"), "time")
    assert " d " in line(plan_of(preset="paper"), "time")


def test_the_plan_names_the_study_design() -> None:
    assert line(plan_of(preset="trial"), "study design").endswith(
        "arms standard, new (randomised); covariates age, weight, sex"
    )
    assert "study" not in plan_of()
