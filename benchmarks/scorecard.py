"""The scorecard of a model beside that of one that memorises: ``python -m benchmarks.scorecard PREPARED``.

PREPARED is a folder of prepared images in a workspace, such as ``workspace/images/965f2b7ac660``. The memorising model
draws its training scans again, mirrored or not, with slight noise; its denoiser knows them by heart. Whatever is meant
to notice copies has to notice these. About ten minutes on two quiet cores.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from image_longitudinal.core.config import ProbeConfig
from image_longitudinal.core.gates import GatesConfig
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.schedules import NoiseSchedule
from image_longitudinal.models.imaging.assembly import load_diffusion, load_vae
from image_longitudinal.models.imaging.grey_images import to_unit
from image_longitudinal.models.pretrained import BUNDLED
from image_longitudinal.models.quality.judge.judge import RealScans
from image_longitudinal.models.quality.judge.networks import load_judge
from image_longitudinal.models.quality.model_metrics import JudgedScans, RealImages, measure_image_model
from image_longitudinal.models.registry.gates import model_gates
from image_longitudinal.models.registry.registry import open_version
from image_longitudinal.models.vae.latent_model import LatentModel
from image_longitudinal.storage.scans.prepared import PreparedImages, open_prepared
from image_longitudinal.tasks.reports.scorecard import scorecard_rows

NOISE = 3.0  # grey levels added to a copy
BATCH = 32


class Copier:
    """An image model that draws its training scans (n, S, S) again."""

    digest = "a model that memorises"

    def __init__(self, scans: NDArray[np.uint8], latent_dim: int) -> None:
        self.scans, self.latent_dim, self.image_size = scans, latent_dim, scans.shape[1]

    def generate(self, latents: NDArray[np.float32], seeds: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The scan that the seed names; latents (B, D) have no say."""
        made = []
        for seed in seeds:
            rng = np.random.default_rng(int(seed))
            scan = self.scans[rng.integers(len(self.scans))][:, :: 1 - 2 * int(rng.integers(2))]
            made.append(np.clip(scan + NOISE * rng.standard_normal(scan.shape), 0, 255).round())
        return np.stack(made).astype(np.uint8)


class ByHeart(nn.Module):
    """A diffusion model whose denoiser is the best one of its training scans and of nothing else.

    Its guess is their mean, weighted by how likely each is under the noise (Karras et al. 2022, appendix B.3).
    """

    def __init__(self, model: DiffusionModel, vae: LatentModel, scans: NDArray[np.uint8]) -> None:
        super().__init__()
        self.model, self.denoiser = model, nn.Identity()
        self.schedule, self.working_shape = model.schedule, model.working_shape
        self.to_working, self.context = model.to_working, model.context
        with torch.no_grad():
            parts = [vae.view(to_unit(scans[start : start + BATCH], "cpu")) for start in range(0, len(scans), BATCH)]
            self.known = torch.cat([model.to_working(part, vae.encode(part)) for part in parts])

    def error_weight(self, timesteps: Tensor) -> Tensor | None:
        """That of the model it stands for."""
        return self.model.error_weight(timesteps)

    def denoise(self, network: nn.Module, noisy: Tensor, timesteps: Tensor, z: Tensor, context: Tensor) -> Tensor:
        """The velocity (B, C, h, w) of the weighted mean."""
        schedule = NoiseSchedule.of(self.schedule)
        alpha, sigma = schedule.alpha[timesteps][:, None, None, None], schedule.sigma[timesteps][:, None, None, None]
        distance = torch.cdist(noisy.flatten(1), alpha[0, 0, 0, 0] * self.known.flatten(1)).square()
        weight = torch.softmax(-distance / (2 * sigma[:, :, 0, 0] ** 2), 1)
        x0 = torch.einsum("bk,kchw->bchw", weight, self.known)
        return alpha * (noisy - alpha * x0) / sigma - sigma * x0


def scans_of(images: PreparedImages, size: int, train: bool) -> RealScans:
    """The scans of one side of the split."""
    rows = np.array([i for i, one in enumerate(images.manifest.images) if (one.split == "train") == train])
    records = [images.manifest.images[row] for row in rows]
    patients = np.array([one.patient for one in records])
    return RealScans(np.asarray(images.images(size)[rows]), patients, [one.label for one in records])


def main() -> None:
    """Measure both and print their scorecards side by side, then the gates of the memorising model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--model", choices=BUNDLED, default="pretrained")
    arguments = parser.parse_args()
    version = open_version(BUNDLED[arguments.model])
    images, vae, generator = open_prepared(arguments.prepared), load_vae(version), load_diffusion(version)
    train, held_out = (scans_of(images, generator.image_size, side) for side in (True, False))
    judged = JudgedScans(load_judge(), train, held_out)
    copier = Copier(train.images, generator.latent_dim)
    memorised = measure_image_model(
        copier, vae, RealImages(train.images, held_out.images, ""), ProbeConfig(n_images=len(held_out.images)),
        version.metadata.seed, "cpu", judged, ByHeart(generator, vae, train.images),  # type: ignore[arg-type]
    )  # fmt: skip
    of_model = {row.figure: row for row in scorecard_rows(version.metadata.measured)}
    print(f"| question | figure | {arguments.model} | one that memorises | scans of other patients |")
    print("|---|---|---|---|---|")
    for row in scorecard_rows(memorised):
        found = of_model[row.figure].generated if row.figure in of_model else ""
        print(f"| {row.question} | {row.figure} | {found} | {row.generated} | {row.real} |")
    for gate in model_gates(memorised, GatesConfig()):
        print(f"gate of the memorising model: {gate.name}: {gate.found}, wanted {gate.wanted}: {gate.verdict}")


if __name__ == "__main__":
    main()
