"""Timing of image generation: the published recipe, ours, the network alone, and a device that generates shards."""

import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from image_longitudinal.core.config import GeneratorConfig
from image_longitudinal.core.presets import load_config
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.solvers import evaluations
from image_longitudinal.models.imaging.backends import describe, diffusion_images
from image_longitudinal.models.imaging.grey_images import as_grey_levels
from image_longitudinal.models.imaging.interface import generate_in_batches
from image_longitudinal.models.quality.recoverability import probe_latents
from image_longitudinal.models.registry.registry import ModelVersion
from image_longitudinal.tasks.shards.image_shards import render_shard
from image_longitudinal.tasks.shards.spec import Execution, ImageSpec
from image_longitudinal.tasks.workspace import Workspace

ORIGINAL_STEPS, TOKENS = 50, 77  # of the published recipe
IMAGES = 1.1e6  # of the published data set
Make = Callable[[], DiffusionModel]


@dataclass(frozen=True)
class Recipe:
    """A way to generate images: one row of the table."""

    scheduler: str
    steps: int
    batch: int
    dtype: torch.dtype
    compiled: bool = False
    decoder: str = "full"

    @property
    def precision(self) -> str:
        """Name of the dtype."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def text(self) -> str:
        """Its columns of the table."""
        decoder = f"{self.decoder}{', compiled' if self.compiled else ''}"
        return f"{self.scheduler:10}{self.steps:>5}{self.batch:>7}  {self.precision:<9} {decoder:<16}"


def sync(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device, least: float) -> float:
    """Shortest wall time of a run, repeated for ``least`` seconds after one warm-up."""
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
    """One image by the published recipe, where only the token is shared between steps: (1, S, S) uint8."""
    scheduler = DDPMScheduler.from_config({**model.schedule, "clip_sample": False, "timestep_spacing": "trailing"})
    scheduler.set_timesteps(ORIGINAL_STEPS)
    token = model.context(z)
    context = token.repeat(1, TOKENS, 1) if token.ndim == 3 else token
    cuda = z.device.type == "cuda"
    autocast: AbstractContextManager[Any] = torch.autocast("cuda", torch.float16) if cuda else nullcontext()
    x = torch.randn((1, *model.working_shape), generator=generator).to(z.device)
    with autocast:
        for timestep in scheduler.timesteps:
            predicted = model.denoise(model.denoiser, x, timestep.long().expand(1).to(z.device), z, context)
            x = scheduler.step(predicted.float(), timestep, x, generator=generator, return_dict=False)[0]
        return as_grey_levels(model.to_images(x, token))


def original_rate(make: Make, device: torch.device, least: float) -> float:
    """Images per second of the published recipe."""
    model = make().to(device).eval()
    z, generator = torch.randn(1, model.latent_dim).to(device), torch.Generator().manual_seed(1)
    return 1 / seconds(lambda: original_image(model, z, generator).cpu(), device, least)


def our_rate(model: DiffusionModel, recipe: Recipe, device: torch.device, least: float) -> float:
    """Images per second of a recipe of ours, from latents to images in host memory, over three batches."""
    images = diffusion_images(model, recipe.scheduler, recipe.steps, device, "")
    latents, seeds = probe_latents(1, 3 * recipe.batch, model.latent_dim)
    elapsed = seconds(lambda: generate_in_batches(images, latents, seeds, recipe.batch), device, least)
    return 3 * recipe.batch / elapsed


def matmul_peak(device: torch.device, dtype: torch.dtype, least: float) -> float:
    """Measured floating point operations per second of a large square matrix product."""
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

    forward: Any = model.denoiser.forward  # the counter does not see the operations of a compiled network
    with FlopCounterMode(display=False) as counter:
        model.denoise(forward, x, t, z.to(recipe.dtype), context)
    return counter.get_total_flops() / seconds(call, device, least)


def measure(
    title: str,
    make: Make,
    prepare: Callable[[Recipe], DiffusionModel],
    recipes: list[Recipe],
    device: torch.device,
    least: float,
    quality: Any = None,
) -> dict[str, Any]:
    """Print and return one table: the original's recipe for the model of ``make``, then ours."""
    print(f"\n{title}, on {device_name(device)}")
    print(
        f"{'solver':10}{'steps':>5}{'batch':>7}  {'dtype':<9} {'decoder':<16}{'images/s':>9}{'ratio':>7}"
        f"{'h/1.1M':>10}{'R²':>8}{'FD':>8}"
    )
    base = original_rate(make, device, least)
    recoverability, fd = quality(None) if quality else (None, None)
    reference = {"recoverability": recoverability, "fd": fd}
    print(
        f"{'ddpm':10}{ORIGINAL_STEPS:>5}{1:>7}  {'original':<9} {'full':<16}{base:>9.4g}{1:>7.1f}{hours(base):>10.1f}"
        f"{cell(recoverability)}{cell(fd)}",
        flush=True,
    )
    rows, known = [], dict[tuple[str, int, torch.dtype], tuple[Any, Any]]()
    for recipe in recipes:
        model = prepare(recipe)
        rate = our_rate(model, recipe, device, least)
        kind = (recipe.scheduler, recipe.steps, recipe.dtype)  # the batch size changes images by at most one grey level
        if quality and kind not in known:
            known[kind] = quality(recipe)
        recoverability, fd = known.get(kind, (None, None))
        print(
            f"{recipe.text}{rate:>9.4g}{rate / base:>7.1f}{hours(rate):>10.1f}{cell(recoverability)}{cell(fd)}",
            flush=True,
        )
        rows.append(
            {"scheduler": recipe.scheduler, "steps": recipe.steps, "batch": recipe.batch,
             "evaluations": evaluations(recipe.scheduler, recipe.steps), "dtype": recipe.precision,
             "decoder": recipe.decoder, "compiled": recipe.compiled, "images_per_second": rate,
             "speedup": rate / base, "hours_of_1.1M": hours(rate), "recoverability": recoverability, "fd": fd}
        )  # fmt: skip
    return {"original_images_per_second": base, "original_quality": reference, "rows": rows}


def cell(value: float | None) -> str:
    """A figure of the table, or a dash."""
    return f"{'-':>8}" if value is None else f"{value:>8.3f}"


def hours(rate: float) -> float:
    """Hours of one device for the published data set, at ``rate`` images per second."""
    return IMAGES / rate / 3600


def device_name(device: torch.device) -> str:
    """Name of the device, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def generator(recipe: Recipe, size: int = 64, **more: Any) -> GeneratorConfig:
    """A recipe as configuration of a data set."""
    return GeneratorConfig(
        scheduler=recipe.scheduler, steps=recipe.steps, decoder=recipe.decoder, precision=recipe.precision,
        compile=recipe.compiled, batch_size=recipe.batch, image_size=size, **more,
    )  # fmt: skip


def device_busy(
    generator: GeneratorConfig, trained: ModelVersion | None, workspace: Path, device: torch.device, n: int
) -> float:
    """Fraction of time that the device renders while shards of ``n`` images are written; the first is not counted."""
    dataset = {"n_subjects": 3 * n, "shard_size": n, "validation_fraction": 0.0, "test_fraction": 0.0}
    config = load_config("demo")
    config = config.model_copy(
        update={"generator": generator, "dataset": config.dataset.model_copy(update=dataset),
                "compute": config.compute.model_copy(update={"device": str(device)})}
    )  # fmt: skip
    images = ImageSpec.of(config, describe(generator, trained))
    execution = Execution.of(config, trained, Workspace(workspace))
    with TemporaryDirectory() as folder:
        shards = [images.of_shard(shard) for shard in config.dataset.plan]
        uses = [use for shard in shards if (use := render_shard(shard, folder, execution).use)][1:]
    busy = sum(use.busy_seconds for use in uses) / sum(use.seconds for use in uses)
    print(f"device busy {busy:.1%} of the time, shards of {n} images being written beside it")
    return busy
