"""False alarms on clean models, and copies planted among their images.

Command: python -m benchmarks.clean_models SCANS WORK

Twenty models of the preset ``scans``, each with a retina fitted to the scans of another half of the patients. Their
diffusion networks start from that of the bundled model, which has seen most of these scans, and are trained on their
half: 60 steps in place of 5,000. As many images of each as its gate looks at are compared with the scans that it was
trained on. Then altered copies of its own training scans take the place of 0.5, 2 and 10 % of them.

Each model is a line of ``WORK/models.jsonl``: a run that was stopped continues. A model takes about two minutes of a
core.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.copies import KINDS, SHARES, altered_copies, scans_of
from image_longitudinal.core.presets import load_config
from image_longitudinal.models.flattened.images import FlattenedImages, flatten_images
from image_longitudinal.models.flattened.train import fit_flattened_retina, train_flattened_diffusion
from image_longitudinal.models.imaging.assembly import trained_weights
from image_longitudinal.models.imaging.backends import probed_model
from image_longitudinal.models.imaging.interface import generate_in_batches
from image_longitudinal.models.pretrained import BUNDLED, PRETRAINED
from image_longitudinal.models.quality.copies import NearestScan, nearest_of, nearest_scans
from image_longitudinal.models.quality.judge.judge import RealScans, judge_images
from image_longitudinal.models.quality.judge.networks import load_judge
from image_longitudinal.models.quality.judge.resampling import disjoint_sets
from image_longitudinal.models.quality.recoverability import probe_latents
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.training.processes import cpu_threads

SOURCE = 512  # pixels a side of the scans that are flattened, as in the preset
Index = NDArray[np.int64]


class Scans(NamedTuple):
    """All scans (n, 64, 64), their patients (n,), their flattened images, and how near altered copies are to them.

    ``copied``: which scans are copied, (m,). ``altered``: distances (m, n) of these copies, by what was done to them.
    """

    images: NDArray[np.uint8]
    patients: NDArray[np.str_]
    flat: FlattenedImages
    copied: Index
    altered: dict[str, NDArray[np.float64]]


def read_scans(folder: Path, size: int, work: Path) -> Scans:
    """The scans of a folder, ready to train on and to copy."""
    images, patients = scans_of(folder, size)
    flat = flatten_images(scans_of(folder, SOURCE)[0], size, work / "scans")
    return Scans(images, patients, flat, *altered_copies(images))


def generated_by_model(scans: Scans, train: Index, seed: int, steps: int, work: Path) -> NDArray[np.uint8]:
    """Images (n, 64, 64) of a model that is trained on these scans, as many as its gates look at."""
    config = load_config("scans")
    diffusion = config.diffusion.model_copy(update={"steps": steps, "learning_rate": 3e-4, "ema_decay": 0.95})
    start = trained_weights(ModelVersion.open(BUNDLED[PRETRAINED]).tensors("diffusion"))
    known, nothing = (
        FlattenedImages(np.asarray(scans.flat.flat[rows]), np.asarray(scans.flat.curves[rows]), config.vae.image_size)
        for rows in (train, train[:0])
    )
    numbers: Index = np.unique(scans.patients[train], return_inverse=True)[1]
    retina, _ = fit_flattened_retina(known, numbers, config.vae, seed)
    folder = work / str(seed)
    model, _ = train_flattened_diffusion(
        retina, known, nothing, scans.images[train], scans.images[:0], diffusion, seed, folder / "checkpoint", "cpu",
        initial=start,
    )  # fmt: skip
    sampled = probed_model(retina, model, config.probe, torch.device("cpu"))
    latents, seeds = probe_latents(seed, config.probe.n_images, config.vae.latent_dim)
    return generate_in_batches(sampled, latents, seeds, config.probe.batch_size)


def measured(scans: Scans, seed: int, steps: int, judged: bool, work: Path) -> dict[str, Any]:
    """What is found among the images of one model, without and with copies."""
    begin = time.process_time()
    rng = np.random.default_rng(seed)
    train, other = disjoint_sets(scans.patients, len(scans.images) // 2, rng)
    made = generated_by_model(scans, train, seed, steps, work)
    trained = time.process_time() - begin
    known = scans.images[train]
    clean, new = nearest_scans(made, known), nearest_scans(scans.images[other], known)
    floors = None
    if judged:
        real, held_out = (RealScans(scans.images[rows], scans.patients[rows]) for rows in (train, other))
        floors = judge_images(made[: len(other)], real, held_out, load_judge(), seed).measures.frechet.value
    rows = np.flatnonzero(np.isin(scans.copied, train))
    raised = {}
    for name, distances in scans.altered.items():
        copies = nearest_of(distances[np.ix_(rows, train)])
        raised[name] = [_raises(clean, copies, round(share * len(made)), new, rng) for share in SHARES]
    return {
        "seed": seed, "steps": steps, "scans": len(train), "images": len(made), "alarm": _closes(clean.copies, new),
        "least_ratio": float(clean.ratio.min()), "copies": int(clean.copies.sum()),
        "least_ratio_of_new_scans": float(new.ratio.min()), "floors": floors, "raised": raised,
        "cpu_seconds_of_training_and_images": round(trained), "cpu_seconds": round(time.process_time() - begin),
    }  # fmt: skip


def _closes(copies: NDArray[np.bool_], new: NearestScan) -> bool:
    """Whether so many copies close the gate: see models.registry.gates."""
    return float(copies.mean()) > round(float(new.copies.mean()), 4)


def _raises(clean: NearestScan, copies: NearestScan, count: int, new: NearestScan, rng: np.random.Generator) -> bool:
    """Whether ``count`` of the copies, in place of as many images of a model, close the gate."""
    found = clean.copies.copy()
    found[rng.choice(len(found), count, False)] = copies.copies[rng.choice(len(copies.copies), count, False)]
    return _closes(found, new)


def main() -> None:
    """Train and measure what ``models.jsonl`` lacks, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", type=Path)
    parser.add_argument("work", type=Path, help="folder of checkpoints and results")
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60, help="of the diffusion model")
    parser.add_argument("--judged", type=int, default=3, help="how many of them the outside judge looks at")
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    log = a.work / "models.jsonl"
    found = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    found = [one for one in found if one["steps"] == a.steps]
    if missing := sorted(set(range(1, a.models + 1)) - {one["seed"] for one in found}):
        with cpu_threads(1):
            scans = read_scans(a.scans, load_config("scans").vae.image_size, a.work)
            for seed in missing:
                found.append(measured(scans, seed, a.steps, seed <= a.judged, a.work))
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found[-1]) + "\n")
                shutil.rmtree(a.work / str(seed))
    floors = [f"{one['floors']:.1f}" for one in found if one["floors"] is not None]
    print(f"{len(found)} models of {a.steps} steps, {found[0]['images']} images each; floors: {', '.join(floors)}")
    print("| copies | models with 0.5 %, 2 %, 10 % copies that raise an alarm |\n|---|---|")
    for name in KINDS:
        counts = np.sum([one["raised"][name] for one in found], 0)
        print(f"| {name} | {', '.join(f'{count} of {len(found)}' for count in counts)} |")
    least, of_new = (min(one[key] for one in found) for key in ("least_ratio", "least_ratio_of_new_scans"))
    print(f"| none | {sum(one['alarm'] for one in found)} of {len(found)} |")
    print(f"least ratio {least:.3f}, of scans of other patients {of_new:.3f}; "
          f"images taken for copies: {sum(one['copies'] for one in found)}")  # fmt: skip


if __name__ == "__main__":
    main()
