"""Images per second: the original's recipe against ours, on whatever device there is, quality beside speed.

Command: python -m benchmarks.generation             (with a trained model in workspace/, about 6 minutes on two cores)
         python -m benchmarks.generation --quick     (about a minute; speed only)

"original" is the published recipe: float32 weights (under autocast on a GPU), one image at a time, 50 DDPM steps by
diffusers' scheduler, the full decoder, and, where the network reads tokens, 77 of them. "ours" is what the presets use.

The small model is a registered one (--workspace, --model); without one the demo's networks with random weights stand in
and only speed is measured. On a GPU the Stable Diffusion 1.5 networks follow, at 512 and 224, with random weights:
speed is theirs, images are not. Quality is measured against 50 DDPM steps with the same latents and noise seeds:
recoverability (mean R² of the three best entries) and Fréchet distance to training images in the VAE's encoder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from core.presets import load_config
from models.backends import DiffusionImages, assemble_diffusion, generate_in_batches, load_vae
from models.device import auto_batch_size
from models.diffusion.interface import DiffusionModel
from models.diffusion.solvers import evaluations
from models.diffusion.stable_diffusion import StableDiffusion
from models.diffusion.train import build_diffusion
from models.draws import loss_percent, measure_draws
from models.recoverability import probe_latents
from models.registry import ModelVersion
from models.tensors import as_grey_levels, default_device
from models.vae.train import build_vae
from tasks.workspace import Workspace

ORIGINAL_STEPS, TOKENS = 50, 77
Make = Callable[[], DiffusionModel]


@dataclass(frozen=True)
class Recipe:
    """A way to make images: one row of the table."""

    scheduler: str
    steps: int
    batch: int
    dtype: torch.dtype
    compiled: bool = False

    @property
    def text(self) -> str:
        """As the table shows it."""
        return f"{self.scheduler:8}{self.steps:>5}{self.batch:>7}  {str(self.dtype).removeprefix('torch.'):<9}"


def sync(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device, least: float) -> float:
    """Shortest wall-clock seconds of a run, after a first one that does not count: repeated for ``least`` seconds."""
    run()
    sync(device)
    best, spent = float("inf"), 0.0
    while spent < least:
        began = time.perf_counter()
        run()
        sync(device)
        best = min(best, time.perf_counter() - began)
        spent += best
    return best


@torch.no_grad()
def original_image(model: DiffusionModel, z: Tensor, generator: torch.Generator) -> Tensor:
    """One image by the published recipe, nothing shared between its steps but the token: (1, S, S) uint8."""
    scheduler = DDPMScheduler.from_config({**model.schedule, "clip_sample": False, "timestep_spacing": "trailing"})
    scheduler.set_timesteps(ORIGINAL_STEPS)
    token = model.context(z)
    context = token.repeat(1, TOKENS, 1) if token.ndim == 3 else token
    cuda = z.device.type == "cuda"
    autocast: AbstractContextManager[Any] = torch.autocast("cuda", torch.float16) if cuda else nullcontext()
    x = torch.randn((1, *model.working_shape), generator=generator).to(z.device)
    with autocast:
        for timestep in scheduler.timesteps:
            said = model.denoise(model.denoiser, x, timestep.long().expand(1).to(z.device), z, context)
            x = scheduler.step(said.float(), timestep, x, generator=generator, return_dict=False)[0]
        return as_grey_levels(model.to_images(x, token))


def original_rate(make: Make, device: torch.device, least: float) -> float:
    """Images per second of the published recipe."""
    model = make().to(device).eval()
    z, generator = torch.randn(1, model.latent_dim).to(device), torch.Generator().manual_seed(1)
    return 1 / seconds(lambda: original_image(model, z, generator).cpu(), device, least)


def our_rate(model: DiffusionModel, recipe: Recipe, device: torch.device, least: float) -> float:
    """Images per second of a recipe of ours, from latents to images in host memory, batch after batch."""
    images = DiffusionImages(model, recipe.scheduler, recipe.steps, device, "")
    latents, seeds = probe_latents(1, 3 * recipe.batch, model.latent_dim)
    taken = seconds(lambda: generate_in_batches(images, latents, seeds, recipe.batch), device, least)
    return 3 * recipe.batch / taken


def prepared(make: Make, recipe: Recipe, device: torch.device) -> DiffusionModel:
    """A model made ready as a recipe wants it."""
    model = make()
    model.for_sampling(recipe.dtype, recipe.compiled)
    return model.to(device)


def matmul_peak(device: torch.device, dtype: torch.dtype, least: float) -> float:
    """Measured floating point operations per second of the largest sort of square matrix product."""
    side = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, device, least)


@torch.no_grad()
def network_rate(model: DiffusionModel, recipe: Recipe, device: torch.device, least: float) -> float:
    """Floating point operations per second of the denoising network, counted by torch, at a recipe's batch."""
    z = torch.randn(recipe.batch, model.latent_dim, device=device)
    x = torch.randn(recipe.batch, *model.working_shape, device=device)
    x = x.to(recipe.dtype, memory_format=torch.channels_last)
    context, t = model.context(z).to(recipe.dtype), torch.full((recipe.batch,), 500, device=device)

    def call() -> Tensor:
        return model.denoise(model.denoiser, x, t, z.to(recipe.dtype), context)

    forward: Any = model.denoiser.forward  # what torch compiled hides its operations from the counter
    with FlopCounterMode(display=False) as counter:
        model.denoise(forward, x, t, z.to(recipe.dtype), context)
    return counter.get_total_flops() / seconds(call, device, least)


class RandomStableDiffusion(StableDiffusion):
    """Stable Diffusion 1.5's networks with random weights: as fast as the real ones, and as good as noise."""

    def __init__(self, image_size: int) -> None:
        DiffusionModel.__init__(self)
        self.denoiser = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
        self.autoencoder = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        self.constants, self.light = None, None
        self.context_width, self.latent_dim, self.image_size = 768, 128, image_size
        self.working_shape = (4, image_size // 8, image_size // 8)
        self.schedule = {
            "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "prediction_type": "epsilon",
        }  # fmt: skip
        self.requires_grad_(False)


def small_model(options: argparse.Namespace) -> tuple[Make, ModelVersion | None, np.ndarray | None, str]:
    """How to make the small model, its registered version and training images where there are, and what it is."""
    workspace = Workspace.at(options.workspace)
    if not options.quick and workspace.registry.aliases().get(options.model, options.model) != options.model:
        trained = workspace.registry.get(options.model)
        weights = trained.tensors("diffusion")
        real = training_images(workspace, trained)
        return lambda: assemble_diffusion(trained.metadata, load_vae(trained), weights), trained, real, trained.version
    config = load_config("demo")
    label = "the demo's networks with random weights"
    return lambda: build_diffusion(build_vae(config.vae, 1).eval(), config.diffusion, 1), None, None, label


def training_images(workspace: Workspace, trained: ModelVersion, most: int = 2048) -> np.ndarray | None:
    """Training images of a version, uint8 (n, S, S), where they still lie in the workspace."""
    for manifest in sorted((workspace.root / "images").glob("*/manifest.json")):
        if json.loads(manifest.read_text()).get("digest") == trained.metadata["images"]["digest"]:
            from storage.prepared import open_prepared

            images = open_prepared(manifest.parent)
            return np.array(images.rows(trained.metadata["diffusion"]["image_size"], "train")[slice(most)])
    return None


def measure(
    title: str, make: Make, recipes: list[Recipe], device: torch.device, least: float, quality: Any = None
) -> dict[str, Any]:
    """One table: the original's recipe, then ours; returns its rows as figures."""
    print(f"\n{title}, on {device_name(device)}")
    print(f"{'solver':8}{'steps':>5}{'batch':>7}  {'dtype':<9}{'images/s':>10}{'ratio':>8}{'R²':>9}{'FD':>9}")
    base = original_rate(make, device, least)
    recoverability, fd = quality(None) if quality else (None, None)
    reference = {"recoverability": recoverability, "fd": fd}
    print(f"{'ddpm':8}{ORIGINAL_STEPS:>5}{1:>7}  {'original':<9}{base:>10.3f}{1:>8.1f}{cell(recoverability)}{cell(fd)}")
    rows, known = [], dict[tuple[str, int, torch.dtype], tuple[Any, Any]]()
    for recipe in recipes:
        model = prepared(make, recipe, device)
        rate = our_rate(model, recipe, device, least)
        kind = (recipe.scheduler, recipe.steps, recipe.dtype)  # the batch changes no image by more than a grey level
        if quality and kind not in known:
            known[kind] = quality(recipe)
        recoverability, fd = known.get(kind, (None, None))
        print(f"{recipe.text}{rate:>10.3f}{rate / base:>8.1f}{cell(recoverability)}{cell(fd)}", flush=True)
        rows.append(
            {"scheduler": recipe.scheduler, "steps": recipe.steps, "batch": recipe.batch,
             "evaluations": evaluations(recipe.scheduler, recipe.steps),
             "dtype": str(recipe.dtype).removeprefix("torch."), "images_per_second": rate, "speedup": rate / base,
             "recoverability": recoverability, "fd": fd}
        )  # fmt: skip
    return {"original_images_per_second": base, "original_quality": reference, "rows": rows}


def cell(value: float | None) -> str:
    """A figure of the table, or a dash."""
    return f"{'-':>9}" if value is None else f"{value:>9.4f}"


def device_name(device: torch.device) -> str:
    """For people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def stable_diffusion_tables(device: torch.device, least: float) -> dict[str, Any]:
    """Speed of the SD 1.5 networks at 512 and 224, and the share of the matmul peak their UNet reaches."""
    found: dict[str, Any] = {}
    for size in (512, 224):
        make = lambda size=size: RandomStableDiffusion(size)  # noqa: E731
        batch = auto_batch_size(device, size)
        recipes = [
            Recipe("ddpm", 50, batch, torch.bfloat16, True),
            *(Recipe("unipc", steps, count, torch.bfloat16, True) for steps in (20, 10, 7) for count in (8, batch)),
            Recipe("unipc", 10, batch, torch.float16, True),
            Recipe("unipc", 10, batch, torch.bfloat16, False),
        ]
        table = measure(f"Stable Diffusion 1.5's networks, RANDOM weights, {size}x{size}", make, recipes, device, least)
        chosen = Recipe("unipc", 10, batch, torch.bfloat16, True)
        rate = network_rate(prepared(make, chosen, device), chosen, device, least)
        table["fraction_of_matmul_peak"] = rate / matmul_peak(device, chosen.dtype, least)
        print(f"UNet: {table['fraction_of_matmul_peak']:.1%} of the measured matmul peak")
        found[str(size)] = table
    return found


def main() -> None:
    """Print the tables and the result line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="speed of the demo's networks only")
    parser.add_argument("--workspace", default="workspace", type=Path)
    parser.add_argument("--model", default="production")
    parser.add_argument("--images", default=256, type=int, help="images that each quality figure is measured on")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device, least = default_device(options.device), 0.5 if options.quick else 2.0
    make, trained, real, label = small_model(options)
    ours = load_config("demo").generator
    batch = auto_batch_size(device, load_config("demo").diffusion.image_size)
    preset = Recipe(ours.scheduler, ours.steps, batch, torch.float32)
    others = [] if options.quick else [Recipe("unipc", steps, batch, torch.float32) for steps in (5, 10)]
    others += [] if options.quick else [Recipe("ddim", 10, batch, torch.float32)]
    recipes = [preset, *(Recipe(preset.scheduler, preset.steps, count, torch.float32) for count in (1, 8)), *others]
    recipes.append(Recipe(preset.scheduler, preset.steps, batch, torch.bfloat16))

    def quality(recipe: Recipe | None) -> tuple[float, float]:
        assert trained is not None
        assert real is not None
        recipe = recipe or Recipe("ddpm", ORIGINAL_STEPS, batch, torch.float32)
        images = DiffusionImages(prepared(make, recipe, device), recipe.scheduler, recipe.steps, device, "")
        found = measure_draws(
            images, load_vae(trained).to(device), trained.metadata["entries"][:3], real,
            n=options.images, batch_size=batch, seed=1,
        )  # fmt: skip
        return found.recoverability, found.fd

    table = measure(f"Small model ({label})", make, recipes, device, least, quality if real is not None else None)
    fraction = network_rate(prepared(make, preset, device), preset, device, least) / matmul_peak(
        device, preset.dtype, least
    )
    print(f"small model: {fraction:.1%} of the measured matmul peak")
    best, base = table["rows"][0], table["original_quality"]
    why: dict[str, str] = {}
    if real is None:
        reason = "random weights: make a data set first, so that a trained model and its images lie in the workspace"
        why |= {"recoverability_loss_percent": reason, "fd_loss_percent": reason}
    result: dict[str, Any] = {
        "benchmark": "generation",
        "device": device_name(device),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: package_version(name) for name in ("image-longitudinal", "diffusers", "torch")},
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
    if device.type == "cuda" and not options.quick:
        result["stable_diffusion"] = tables = stable_diffusion_tables(device, least)
        large = tables["512"]
        chosen = next(r for r in large["rows"] if (r["scheduler"], r["steps"]) == ("unipc", 10) and r["batch"] > 8)
        result |= {
            "speedup_vs_original": chosen["speedup"],
            "images_per_second": chosen["images_per_second"],
            "fraction_of_matmul_peak": large["fraction_of_matmul_peak"],
            "gpu_hours_of_1.1M": 1.1e6 / chosen["images_per_second"] / 3600,
        }
        why["quality"] = "of the small model: the large networks' weights are random"
    else:
        why["stable_diffusion"] = "no GPU, or --quick: python -m benchmarks.generation on a machine with one"
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
