"""Images per second of the original's recipe and of ours, on the available device, with the quality of the images.

Command: python -m benchmarks.generation             (with a trained model in workspace/, about 6 minutes on two cores)
         python -m benchmarks.generation --quick     (about a minute; speed of the demo's networks only)
         python -m benchmarks.generation --large     (Stable Diffusion 1.5's networks on a CPU too; 20 minutes)

"original" is the published recipe: float32 weights (under autocast on a GPU), one image at a time, 50 DDPM steps by
diffusers' scheduler, the full decoder, and 77 tokens if the network takes tokens. "ours" is what the presets use.

The small model is a registered one (--workspace, --model); without one, the demo's networks with random weights are
used and only speed is measured. Quality is relative to 50 DDPM steps with the same latents and noise seeds:
recoverability (mean R² of the three best latent dimensions) and Fréchet distance to training images in the VAE's
encoder.

The Stable Diffusion 1.5 networks follow with random weights, which changes their images but not their speed: on a GPU
at 512 and 224; with --large also on a CPU, at 224. The work per image is counted for every recipe, on any device.
"device busy" is measured while shards of images are generated and written as Zarr, the first shard excluded.
"""

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.report import argument_parser, print_result
from benchmarks.sampling import (
    ORIGINAL_STEPS,
    Make,
    Recipe,
    device_busy,
    device_name,
    generator,
    matmul_peak,
    measure,
    network_rate,
)
from benchmarks.stable_diffusion import stable_diffusion_tables, work_table
from image_longitudinal.core.presets import load_config
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.train import build_diffusion
from image_longitudinal.models.imaging.assembly import assemble_diffusion, load_vae
from image_longitudinal.models.imaging.backends import diffusion_images
from image_longitudinal.models.imaging.device import auto_batch_size, default_device
from image_longitudinal.models.quality.sampler_comparison import loss_percent, measure_sampler
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.models.vae.train import build_vae
from image_longitudinal.tasks.workspace import Workspace


def small_model(options: Namespace) -> tuple[Make, ModelVersion | None, np.ndarray | None, str]:
    """A function that builds the small model, its registered version and training images if any, and its label."""
    workspace = Workspace.at(options.workspace)
    if not options.quick and workspace.registry.aliases().get(options.model, options.model) != options.model:
        trained = workspace.registry.get(options.model)
        weights = trained.tensors("diffusion")
        real = training_images(workspace, trained)
        return (
            lambda: assemble_diffusion(trained.metadata.networks, load_vae(trained), weights),
            trained,
            real,
            trained.version,
        )
    config = load_config("demo")
    label = "the demo's networks with random weights"
    return lambda: build_diffusion(build_vae(config.vae, 1).eval(), config.diffusion, 1), None, None, label


def training_images(workspace: Workspace, trained: ModelVersion, most: int = 2048) -> np.ndarray | None:
    """Training images of a version, uint8 (n, S, S), if they are still in the workspace."""
    for manifest in sorted((workspace.root / "images").glob("*/manifest.json")):
        if json.loads(manifest.read_text()).get("digest") == trained.metadata.images.digest:
            from image_longitudinal.storage.scans.prepared import open_prepared

            images = open_prepared(manifest.parent)
            return np.array(images.rows(trained.metadata.networks.image_size, "train")[slice(most)])
    return None


def main() -> None:
    """Print the tables and the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--large", action="store_true", help="Stable Diffusion's networks also on a CPU")
    parser.add_argument("--workspace", default="workspace", type=Path)
    parser.add_argument("--model", default="production")
    parser.add_argument("--images", default=256, type=int, help="number of images for each quality figure")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device, least = default_device(options.device), 0.5 if options.quick else 2.0
    make, trained, real, label = small_model(options)
    ours = load_config("demo").generator
    batch = auto_batch_size(device, load_config("demo").diffusion.image_size)
    preset = Recipe(
        ours.scheduler, ours.steps, batch, torch.float32, compiled=device.type == "cuda"
    )  # as with compile=auto
    others = [] if options.quick else [("unipc", 5), ("unipc", 10), ("sde-dpm++", 10), ("ddim", 10)]
    recipes = [preset, *(replace(preset, batch=count) for count in (1, 8))]
    recipes += [replace(preset, scheduler=scheduler, steps=steps) for scheduler, steps in others]
    recipes.append(replace(preset, dtype=torch.bfloat16))

    def prepare(recipe: Recipe) -> DiffusionModel:
        model = make()
        model.for_sampling(recipe.dtype, recipe.compiled)
        return model.to(device)

    def quality(recipe: Recipe | None) -> tuple[float, float]:
        assert trained is not None
        assert real is not None
        recipe = recipe or Recipe("ddpm", ORIGINAL_STEPS, batch, torch.float32)
        images = diffusion_images(prepare(recipe), recipe.scheduler, recipe.steps, device, "")
        found = measure_sampler(
            images, load_vae(trained).to(device), trained.metadata.measured.latent_order[:3], real,
            n=options.images, batch_size=batch, seed=1,
        )  # fmt: skip
        return found.recoverability, found.fd

    table = measure(
        f"Small model ({label})", make, prepare, recipes, device, least, quality if real is not None else None
    )
    fraction = network_rate(prepare(preset), preset, device, least) / matmul_peak(device, preset.dtype, least)
    print(f"small model: {fraction:.1%} of the measured matmul peak")
    if trained is not None:
        table["device_busy"] = device_busy(generator(preset), trained, options.workspace, device, 256)
    best, base = table["rows"][0], table["original_quality"]
    why: dict[str, str] = {}
    if real is None:
        reason = "random weights: generate a data set first, so that the workspace has a trained model and its images"
        why |= {"recoverability_loss_percent": reason, "fd_loss_percent": reason}
    result: dict[str, Any] = {
        "benchmark": "generation",
        "device": device_name(device),
        "model": label,
        "speedup_vs_original": best["speedup"],
        "images_per_second": best["images_per_second"],
        "fraction_of_matmul_peak": fraction,
        "recoverability_loss_percent": loss_percent(
            base["recoverability"], best["recoverability"], more_is_better=True
        ),
        "fd_loss_percent": loss_percent(base["fd"], best["fd"], more_is_better=False),
        "small": table,
        "stable_diffusion": None,
        "why": why,
    }
    if not options.quick:
        result["work_per_image"] = work_table(512)
    if options.large or (device.type == "cuda" and not options.quick):
        sizes = (512, 224) if device.type == "cuda" else (224,)
        result["stable_diffusion"] = tables = stable_diffusion_tables(device, sizes, least)
        if "512" in tables:
            large = tables["512"]
            fastest = max(large["rows"], key=lambda row: row["images_per_second"])
            result |= {
                "speedup_vs_original": large["rows"][0]["speedup"],
                "images_per_second": large["rows"][0]["images_per_second"],
                "fraction_of_matmul_peak": large["fraction_of_matmul_peak"],
                "device_busy": large["device_busy"],
                "gpu_hours_of_1.1M": large["rows"][0]["hours_of_1.1M"],
                "fastest": fastest,
            }
            why["quality"] = "of the small model: the large networks' weights are random"
    else:
        why["stable_diffusion"] = "no GPU, or --quick: python -m benchmarks.generation on a machine with one"
    print_result(("diffusers", "torch"), result)


if __name__ == "__main__":
    main()
