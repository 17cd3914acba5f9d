"""The flattened retina from phantoms to a published data set, with every flow in between."""

from collections.abc import Callable
from pathlib import Path

import pytest

from image_longitudinal.core.config import Config
from image_longitudinal.flows.evaluate_dataset import evaluate_dataset
from image_longitudinal.flows.generate_dataset import generate_dataset
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.tasks.workspace import Workspace

FLATTENED = (
    "vae.kind=flattened", "vae.latent_dim=10", "diffusion.kind=flattened", "diffusion.channels=[16, 32]",
    "diffusion.steps=8", "dataset.test_fraction=0.2",
    "generator.scheduler=whitened", "evaluation.resnet.steps=0", "evaluation.bootstrap=100",
    "evaluation.population=known",
    "gates.latents=0.8", "gates.recoverability=0.8", "gates.fidelity=50",  # those of every preset: they are open
)  # fmt: skip


@pytest.mark.usefixtures("prefect_server")
def test_a_data_set_of_flattened_retinas_is_published_and_read_back(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny(*FLATTENED)
    output, workspace = str(tmp_path / "dataset"), str(tmp_path / "workspace")
    generate_dataset(output=output, config=config, workspace=workspace)
    images = open_dataset(output).images[0:60]
    assert images.shape == (60, 32, 32)
    assert images.std((1, 2)).min() > 5
    version = Workspace.at(workspace).model("production")
    measured = version.metadata.measured
    best = [measured.recoverability[dim] for dim in measured.latent_order[:3]]
    assert min(best) > 0.95  # curve and components are explicit: no training has to find them
    assert version.metadata.training.vae.explained_variance is not None
    assert {one.verdict for one in version.gates} == {"passed"}
    assert {one.verdict for one in open_dataset(output).manifest.gates or ()} == {"passed"}
    evaluate_dataset(dataset=output, output=str(tmp_path / "evaluation"), config=config, workspace=workspace)
    assert (tmp_path / "evaluation").is_dir()
