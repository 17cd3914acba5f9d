"""What differential privacy costs a small VAE: ``python -m benchmarks.privacy --epsilon 8 3 1``.

Phantoms, each of a patient of its own, or with ``--scans PREPARED`` the scans of a folder of prepared images. One row
for each ε, and one for the same VAE trained as usual, with batch norm (``--epsilon 0``). Needs the extras dp and judge.
"""

import argparse
import hashlib
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.config import PrivacyConfig, VAEConfig
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.imaging.backends import vae_images
from image_longitudinal.models.imaging.interface import generate_in_batches
from image_longitudinal.models.imaging.phantom import LATENT_NAMES, render
from image_longitudinal.models.quality.judge.judge import RealScans, judge_images
from image_longitudinal.models.quality.judge.networks import FeatureNetwork, load_judge
from image_longitudinal.models.quality.membership import membership_figures
from image_longitudinal.models.quality.recoverability import (
    encoder_reader,
    find_recoverable_axes,
    probe_latents,
    r_squared,
)
from image_longitudinal.models.training.processes import cpu_threads
from image_longitudinal.models.vae.private_train import train_private_vae
from image_longitudinal.models.vae.train import train_vae
from image_longitudinal.storage.scans.prepared import open_prepared

HELD_OUT, JUDGED = 120, 200  # images of other patients, and of training, that the judge looks at
PROBES = 384  # images of which z is read back


def phantoms(first: int, count: int, size: int) -> RealScans:
    """Phantoms of these numbers, each of a patient of its own."""
    ids = np.arange(first, first + count)
    latents = normals(stream_key(1, "benchmark-phantoms"), ids, len(LATENT_NAMES))
    images = np.concatenate([render(latents[i : i + 64], ids[i : i + 64], size) for i in range(0, count, 64)])
    return RealScans(images, ids.astype(str))


def prepared_scans(folder: Path, size: int) -> tuple[RealScans, RealScans]:
    """Training scans, and those of the patients of both other splits."""
    images = open_prepared(folder)
    of_train = np.array([one.split == "train" for one in images.manifest.images])
    patients = np.array([one.patient for one in images.manifest.images])
    sides = (np.flatnonzero(of_train), np.flatnonzero(~of_train))
    train, held_out = (RealScans(np.asarray(images.images(size)[rows]), patients[rows]) for rows in sides)
    return train, held_out


class Remembered:
    """A judge's network that computes the features of the same images once."""

    def __init__(self, network: FeatureNetwork) -> None:
        self.network, self.known = network, dict[bytes, NDArray[np.float64]]()
        self.name, self.digest = network.name, network.digest

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """See :class:`FeatureNetwork`."""
        key = hashlib.sha256(images.tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.network.features(images)
        return self.known[key]


def measured(config: VAEConfig, train: RealScans, held_out: RealScans, judge: FeatureNetwork, folder: Path) -> str:
    """Train and measure one VAE: a row of the table."""
    begin = time.process_time()
    numbers: NDArray[np.int64] = np.unique(train.patients, return_inverse=True)[1]
    checkpoint = folder / f"{time.monotonic_ns()}.checkpoint"
    if config.dp is None:
        vae, figures = train_vae(train.images, held_out.images, config, 1, checkpoint, "cpu")
    else:
        vae, figures = train_private_vae(train.images, numbers, held_out.images, config, 1, checkpoint, "cpu")
    seconds = time.process_time() - begin
    model = vae_images(vae, digest="")
    vae.rotate(find_recoverable_axes(model, vae, n=PROBES, batch_size=64, seed=1))
    latents, seeds = probe_latents(1, PROBES, config.latent_dim, "measure")
    images = generate_in_batches(model, latents, seeds, 64)
    third = np.sort(r_squared(latents, encoder_reader(vae)(images)))[-3]
    some = np.linspace(0, len(train.images) - 1, min(JUDGED, len(train.images))).astype(int)
    known = RealScans(train.images[some], train.patients[some])
    found = judge_images(images[: len(held_out.images)], known, held_out, judge, 1).measures
    auc = membership_figures(vae, None, train, held_out, 1).vae_auc
    privacy = figures.privacy
    name = "none" if privacy is None else f"{privacy.epsilon:.2f}"
    noise = "" if privacy is None else f"{privacy.noise_multiplier:.2f}"
    return (
        f"| {name} | {noise} | {figures.validation_mse:.4f} | {found.frechet_to_one_floor:.0f} | "
        f"{found.recall.value:.2f} | {third:.2f} | {auc.value:.2f} ({auc.low:.2f}-{auc.high:.2f}) | {seconds:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=Path, help="folder of prepared images")
    parser.add_argument("--patients", type=int, default=4000, help="phantoms, if there are no scans")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--epsilon", type=float, nargs="+", default=[0, 8, 3, 1], help="0: as usual")
    a = parser.parse_args()
    if a.scans:
        train, held_out = prepared_scans(a.scans, a.size)
    else:
        train, held_out = phantoms(0, a.patients, a.size), phantoms(10**6, HELD_OUT, a.size)
    print(f"{len(train.images)} images of {len(np.unique(train.patients))} patients, {a.size}x{a.size}; "
          f"{a.steps} steps with {a.batch} patients, width {a.width}, {a.latent_dim} dimensions, δ 1e-5")  # fmt: skip
    print("| ε | noise | error | floors | recall | R² | membership AUC | CPU s |\n|---|---|---|---|---|---|---|---|")
    judge = Remembered(load_judge())
    with tempfile.TemporaryDirectory() as folder, cpu_threads(1):
        for epsilon in a.epsilon:
            config = VAEConfig(
                image_size=a.size, latent_dim=a.latent_dim, width=a.width, steps=a.steps, batch_size=a.batch,
                learning_rate=a.rate, kl_weight=0.02, kl_warmup_steps=a.steps // 10,
                dp=PrivacyConfig(epsilon=epsilon) if epsilon else None,
            )  # fmt: skip
            print(measured(config, train, held_out, judge, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
