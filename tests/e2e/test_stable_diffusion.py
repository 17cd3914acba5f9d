"""The original's model at tiny size through the flows: trained, distilled, and sampled in every way."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ModelError
from image_longitudinal.flows.distill_model import distill_model
from image_longitudinal.flows.generate_dataset import generate_dataset
from image_longitudinal.flows.train_models import train_models
from image_longitudinal.flows.verify_dataset import verify
from image_longitudinal.storage.dataset.reader import open_dataset

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("prefect_server")]


def test_stable_diffusion_generates_data_sets_with_its_student_and_its_light_decoder(
    tmp_path: Path, tiny: Callable[..., Config], pretrained: Path
) -> None:
    workspace = str(tmp_path / "workspace")

    def config(*overrides: str) -> Config:
        kind = ("diffusion.kind=stable-diffusion", f"diffusion.pretrained={pretrained}", "diffusion.steps=3")
        data = ("dataset.n_subjects=20", "dataset.association=[1.0]")
        return tiny(*kind, *data, "distillation.batch_size=8", *overrides)

    def images(name: str, *overrides: str, model: str) -> np.ndarray:
        generate_dataset(str(tmp_path / name), config=config(*overrides), model=model, workspace=workspace)
        return open_dataset(tmp_path / name).images[0:20]

    model = train_models(config=config(), workspace=workspace).version
    student, light = ("generator.scheduler=student", "generator.steps=2"), "generator.decoder=light"
    for asked, lacking in ((student, "student"), ((light,), "light-decoder")):
        with pytest.raises(ModelError, match=rf"the model has no {lacking}.*image-longitudinal distill"):
            images("none", *asked, model=model)

    first = config("distillation.student_steps=3", "distillation.decoder_steps=0")
    half = distill_model(model, config=first, workspace=workspace)
    assert half.metadata.distillation is not None
    assert (half.metadata.distillation.teacher, half.metadata.distillation.networks) == (model, ("student",))
    second = config("distillation.student_steps=0", "distillation.decoder_steps=3", "generator.steps=3")
    version = distill_model(half.version, config=second, workspace=workspace)
    assert (distillation := version.metadata.distillation) is not None
    assert distillation.networks == ("student", "light-decoder"), "it keeps its student"
    assert [(row.solver, row.steps, row.decoder) for row in distillation.samplers] == [
        ("ddpm", 50, "full"),
        *((*way, decoder) for decoder in ("full", "light") for way in (("unipc", 4), ("unipc", 3), ("student", 3))),
    ]
    assert distillation.samplers[0].fd_loss_percent == 0
    assert version.card.count("## Samplers") == 1
    assert "| student | 3 | light |" in version.card
    assert distill_model(half.version, config=second, workspace=workspace).version == version.version, (
        "nothing is trained twice"
    )

    made = [images(name, *how, model=version.version) for name, how in
            {"full": (), "light": (light,), "student": student, "both": (light, *student)}.items()]  # fmt: skip
    for one, other in itertools.combinations(made, 2):
        assert (one != other).any(axis=(1, 2)).all(), "each sampler generates its own images"
    assert verify(str(tmp_path / "both")).ok
