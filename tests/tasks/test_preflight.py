"""What a run would refuse is found before it starts, all of it at once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_longitudinal.cli.run_plan import describe_plan
from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ImageLongitudinalError, Problems
from image_longitudinal.core.presets import load_config
from image_longitudinal.models.pretrained import PRETRAINED
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.preflight import (
    Found,
    foresee_evaluation,
    foresee_generation,
    foresee_ingest,
    foresee_measurement,
    foresee_training,
)
from tests.storage.conftest import write_dataset

PHANTOM = ("generator.backend=phantom", "generator.image_size=32")


def config_of(*overrides: str, preset: str = "demo") -> Config:
    return load_config(preset, overrides=overrides)


def foreseen(tmp_path: Path, config: Config | None, **given: str | None) -> tuple[Found, list[str]]:
    """What a generation finds, and its problems."""
    problems = Problems()
    chosen = {"output": str(tmp_path / "out"), "workspace": str(tmp_path / "work"), "images": None, "model": None}
    found = foresee_generation(problems, config, **{**chosen, "reuse": None, **given})  # type: ignore[arg-type]
    return found, [str(problem) for problem in problems.found]


def scans(folder: Path, good: int, bad: int) -> str:
    folder.mkdir()
    for index in range(good):
        Image.fromarray(np.full((64, 64), index, np.uint8)).save(folder / f"good{index}.png")
    for index in range(bad):
        (folder / f"bad{index}.png").write_bytes(b"no image")
    return str(folder)


def test_nothing_is_wrong_and_nothing_is_made(tmp_path: Path) -> None:
    found, problems = foreseen(tmp_path, config_of(*PHANTOM))
    assert problems == []
    assert (found.model, found.image_side, found.finished) == (None, 32, 0)
    assert found.free
    found, problems = foreseen(tmp_path, config_of(preset="scans-128"), model=PRETRAINED)
    assert problems == []
    assert found.model
    assert found.image_side == 64  # that of the bundled model, not of the preset
    assert not list(tmp_path.iterdir())


def test_all_problems_are_found_at_once(tmp_path: Path) -> None:
    bad = config_of("outcomes.model=nonsense")
    _, problems = foreseen(tmp_path, bad, output="ftp://somewhere/x", model="nonsense", reuse=str(tmp_path / "nothing"))
    assert len(problems) == 4
    for text in ("no such model", "ftp://", "nothing", "nonsense"):
        assert any(text in problem for problem in problems), (text, problems)
    _, problems = foreseen(tmp_path, None, output="ftp://somewhere/x", model="nonsense")
    assert len(problems) == 2


@pytest.mark.parametrize(
    ("overrides", "model", "message"),
    [
        (("generator.scheduler=student",), PRETRAINED, "has no student"),
        (PHANTOM, PRETRAINED, "pretrained would not be used: the images are phantoms"),
        (("dataset.eta_dims=[0, 1, 99]",), PRETRAINED, "expected 3 different ones from 0 to"),
        ((*PHANTOM, "dataset.eta_dims=[0, 1]"), None, "3 dimensions"),
        ((*PHANTOM, "compute.device=abacus"), None, "compute.device cannot be used"),
        (("generator.backend=gan",), None, "generator.backend is unknown"),
        ((*PHANTOM, "dataset.n_subjects=1000000000000"), None, "the disk is too full"),
    ],
)
def test_what_does_not_fit_is_refused(
    overrides: tuple[str, ...], model: str | None, message: str, tmp_path: Path
) -> None:
    _, (problem,) = foreseen(tmp_path, config_of(*overrides), model=model)
    assert message in problem


@pytest.mark.parametrize(
    ("overrides", "model", "message"),
    [
        (PHANTOM, None, "would not be used: the images are phantoms"),
        ((), PRETRAINED, f"would not be used: model {PRETRAINED} is trained"),
    ],
)
def test_scans_that_would_not_be_used_are_refused(
    overrides: tuple[str, ...], model: str | None, message: str, tmp_path: Path
) -> None:
    enough = scans(tmp_path / "scans", 60, 5)
    _, (problem,) = foreseen(tmp_path, config_of(*overrides), model=model, images=enough)
    assert f"images {enough} {message}" in problem


def test_an_output_of_something_else_or_in_a_file_is_refused(tmp_path: Path) -> None:
    write_dataset(open_root(tmp_path / "out"))
    _, (problem,) = foreseen(tmp_path, config_of(*PHANTOM))
    assert "different data set" in problem
    (tmp_path / "file").write_text("")
    _, (problem,) = foreseen(tmp_path, config_of(*PHANTOM), output=str(tmp_path / "file" / "out"))
    assert "Choose an output that is a folder" in problem


def test_scans_are_counted_and_unreadable_ones_refused(tmp_path: Path) -> None:
    config = config_of("images.min_images=20")
    few, enough = scans(tmp_path / "few", 19, 5), scans(tmp_path / "enough", 20, 5)
    found, problems = foreseen(tmp_path, config, images=enough)
    assert (found.scans, problems) == (25, [])
    _, (problem,) = foreseen(tmp_path, config, images=few)
    assert "too few usable scans" in problem
    assert "got 19 of 24" in problem
    problems_of_training = Problems()
    foresee_training(problems_of_training, config, str(tmp_path / "none"), str(tmp_path / "work"))
    with pytest.raises(ImageLongitudinalError, match="no folder of scans"):
        problems_of_training.require_none()


def test_ingest_and_measurement_look_for_scans_and_model_first(tmp_path: Path) -> None:
    problems = Problems()
    foresee_ingest(problems, config_of(), scans(tmp_path / "scans", good=0, bad=3), str(tmp_path / "work"))
    assert [str(one) for one in problems.found if "too few usable scans" in str(one)]
    problems = Problems()
    foresee_measurement(problems, config_of(), "nonsense", str(tmp_path / "nowhere"), str(tmp_path / "work"))
    assert len(problems.found) == 2
    assert "nonsense" in str(problems.found[0])
    assert "nowhere" in str(problems.found[1])
    problems = Problems()
    foresee_measurement(problems, config_of(), PRETRAINED, None, str(tmp_path / "work"))
    assert problems.found == []


def test_an_evaluation_checks_data_set_and_output_first(tmp_path: Path) -> None:
    write_dataset(open_root(tmp_path / "data"))
    work = str(tmp_path / "work")

    def found(dataset: str, output: str | None, *trust: str, config: Config | None = None) -> str:
        problems = Problems()
        foresee_evaluation(problems, config or config_of(), dataset, output, work, False, trust)
        return "\n".join(map(str, problems.found))

    assert "train subjects" in found(str(tmp_path / "data"), None)
    missing = found(str(tmp_path / "nowhere"), None, str(tmp_path / "model.py"))
    assert "nowhere" in missing
    assert "no such model file" in missing


def test_the_data_set_whose_images_are_shared_is_in_the_plan(tmp_path: Path) -> None:
    write_dataset(open_root(tmp_path / "data"))
    found, problems = foreseen(tmp_path, config_of(*PHANTOM), reuse=str(tmp_path / "data"))
    assert problems == []
    assert found.reused == "tiny"
    assert "those of tiny" in describe_plan(config_of(*PHANTOM), training=False, generation=True, found=found)


def test_the_estimated_time_is_that_of_the_model_that_is_used(tmp_path: Path) -> None:
    chosen = ("generator.backend=diffusion", "dataset.n_subjects=4000")
    times = []
    for channels in ("[16]", "[512]"):  # of the configuration, for a model that is not trained here
        config = config_of(*chosen, f"diffusion.channels={channels}", preset="trial")
        found, problems = foreseen(tmp_path, config, model=PRETRAINED)
        assert problems == []
        plan = describe_plan(config, training=False, generation=True, found=found)
        times += [one for one in plan.splitlines() if one.startswith("time")]
    assert times[0] == times[1]
    assert "3 min 0 s" in times[0]  # 35 ms an image, the start and reading z back
