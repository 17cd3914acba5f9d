"""Images per second of the published recipe and of ours, on the available device, with the quality of the images.

Command: python -m benchmarks.generation             (about 6 minutes on two cores)
         python -m benchmarks.generation --quick     (about a minute; speed of the small model only)
         python -m benchmarks.generation --large     (Stable Diffusion 1.5's networks on a CPU too; 20 minutes)

"original" is the published recipe: float32 weights (autocast on a GPU), one image at a time, 50 DDPM steps by
diffusers' scheduler, the full decoder, 77 tokens if the network takes tokens. The row after it is the preset's recipe.

The small model is a registered one (--workspace, --model) or the bundled one. Quality needs its training images in the
workspace and is relative to 50 DDPM steps with the same latents and noise seeds: recoverability (mean R² of the three
best latent dimensions) and Fréchet distance to training images in the VAE's encoder.

Stable Diffusion 1.5's networks have random weights, which does not change their speed: on a GPU at 512 and 224, with
--large on a CPU at 224. The work per image is counted on any device. "device busy" is measured while shards of images
are generated and written as Zarr, the first shard excluded.
"""

import json
import platform
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import argument_parser, print_result
from image_longitudinal.core.config import GeneratorConfig
from image_longitudinal.core.presets import load_config
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.distillation import build_light_decoder
from image_longitudinal.models.diffusion.solvers import evaluations
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.imaging.assembly import load_diffusion, load_vae
from image_longitudinal.models.imaging.backends import NetworkImages, describe, diffusion_images
from image_longitudinal.models.imaging.device import auto_batch_size, default_device
from image_longitudinal.models.imaging.grey_images import as_grey_levels
from image_longitudinal.models.imaging.interface import generate_in_batches
from image_longitudinal.models.pretrained import PRETRAINED
from image_longitudinal.models.quality.recoverability import probe_latents
from image_longitudinal.models.quality.sampler_comparison import SamplerFigures, loss_percent, measure_sampler
from image_longitudinal.models.registry.metadata import RANDOM_EFFECTS
from image_longitudinal.models.registry.registry import PRODUCTION, ModelVersion
from image_longitudinal.storage.scans.prepared import open_prepared
from image_longitudinal.tasks.shards.image_shards import render_shard
from image_longitudinal.tasks.shards.specs import Execution, ImageSpec
from image_longitudinal.tasks.workspace import Workspace

ORIGINAL = GeneratorConfig(scheduler="ddpm", steps=50, batch_size=1, compile=False)
TOKENS = 77  # of the published recipe
IMAGES, HOURS = 1.1e6, 6.0  # of the published data set; GPU hours aimed at for it
Build = Callable[[GeneratorConfig], DiffusionModel]  # networks with the decoder of a recipe, on the CPU


def shortest(run: Callable[[], object], least: float) -> float:
    """Shortest wall time of a run in seconds; it is repeated for ``least`` seconds after a warm-up."""
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return min(timer.blocked_autorange(min_run_time=least).times)


class RandomStableDiffusion(StableDiffusion):
    """Stable Diffusion 1.5's networks with random weights, for images of any size."""

    def __init__(self, recipe: GeneratorConfig) -> None:
        DiffusionModel.__init__(self)
        self.denoiser = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
        self.autoencoder = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2,
        )  # fmt: skip
        self.constants = None
        self.context_width, self.latent_dim, self.image_size = 768, 128, recipe.image_size
        self.working_shape = (4, recipe.image_size // 8, recipe.image_size // 8)
        self.schedule = {
            "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "prediction_type": "epsilon",
        }  # fmt: skip
        self.light = build_light_decoder(self, 64, 1) if recipe.decoder == "light" else None
        self.requires_grad_(False)


def image_model(build: Build, recipe: GeneratorConfig, device: torch.device) -> NetworkImages:
    """Networks prepared and sampled as a recipe says."""
    model = build(recipe).to(device)
    model.for_sampling(getattr(torch, recipe.precision), recipe.compile is True)
    return diffusion_images(model, recipe.scheduler, recipe.steps, device, "random")


def random_backend(config: GeneratorConfig, version: ModelVersion | None, device: torch.device) -> NetworkImages:
    """A custom backend for ``generator.backend``: Stable Diffusion 1.5's networks with random weights."""
    return image_model(RandomStableDiffusion, config, device)


@torch.no_grad()
def original_image(model: DiffusionModel, device: torch.device) -> Tensor:
    """One image by the published recipe, where only the token is shared between steps: (1, S, S) uint8."""
    z, generator = torch.randn(1, model.latent_dim, device=device), torch.Generator().manual_seed(1)
    scheduler = DDPMScheduler.from_config({**model.schedule, "clip_sample": False, "timestep_spacing": "trailing"})
    scheduler.set_timesteps(ORIGINAL.steps)
    token = model.context(z)
    context = token.repeat(1, TOKENS, 1) if token.ndim == 3 else token
    x = torch.randn((1, *model.working_shape), generator=generator).to(device)
    with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
        for timestep in scheduler.timesteps:
            predicted = model.denoise(model.denoiser, x, timestep.long().expand(1).to(device), z, context)
            x = scheduler.step(predicted.float(), timestep, x, generator=generator, return_dict=False)[0]
        return as_grey_levels(model.to_images(x, token)).cpu()


@torch.no_grad()
def fraction_of_matmul_peak(images: NetworkImages, recipe: GeneratorConfig, least: float) -> float:
    """Floating point operations per second of the denoising network, over those of a large square matrix product."""
    model, device, dtype = images.network, images.device, getattr(torch, recipe.precision)
    batch = int(recipe.batch_size)
    assert isinstance(model, DiffusionModel)
    z = torch.randn(batch, model.latent_dim, device=device)
    x = torch.randn(batch, *model.working_shape, device=device).to(dtype, memory_format=torch.channels_last)
    context, t = model.context(z).to(dtype), torch.full((batch,), 500, device=device)
    forward: Any = model.denoiser.forward  # the counter does not see the operations of a compiled network
    work = operations(lambda: model.denoise(forward, x, t, z.to(dtype), context))
    rate = work / shortest(lambda: model.denoise(model.denoiser, x, t, z.to(dtype), context), least)
    side = 8192 if device.type == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    fraction = rate * shortest(lambda: a @ b, least) / (2 * side**3)
    print(f"denoising network: {fraction:.1%} of the measured matmul peak")
    return fraction


@torch.no_grad()
def operations(call: Callable[[], Tensor]) -> int:
    """Floating point operations of a call, counted by torch."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def measure(
    title: str, build: Build, recipes: list[GeneratorConfig], device: torch.device, least: float,
    quality: Callable[[NetworkImages], SamplerFigures] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Print and return one table: the published recipe, then ours; speed-ups are relative to the first row."""
    print(f"\n{title}")
    print(f"{'solver':10}{'steps':>5}{'batch':>7}  {'dtype':<9} {'decoder':<16}{'images/s':>9}{'ratio':>7}", end="")
    print(f"{'h/1.1M':>10}{'R²':>8}{'FD':>8}")
    base = 1 / shortest(partial(original_image, build(recipes[0]).to(device).eval(), device), least)
    rows: list[dict[str, Any]] = []
    for recipe in [ORIGINAL, *recipes]:
        original, batch, images = recipe is ORIGINAL, int(recipe.batch_size), image_model(build, recipe, device)
        latents, seeds = probe_latents(1, 3 * batch, images.latent_dim)  # to images in host memory, in three batches
        run = partial(generate_in_batches, images, latents, seeds, batch)
        rate = base if original else 3 * batch / shortest(run, least)
        recoverability, fd = None, None
        if quality and (original or batch == recipes[0].batch_size):  # others change one grey level at most
            recoverability, fd = quality(images)
        row = {
            **recipe.model_dump(include={"scheduler", "steps", "batch_size", "precision", "decoder", "compile"}),
            "evaluations": evaluations(recipe.scheduler, recipe.steps), "images_per_second": rate,
            "speedup": rate / base, "hours_of_1.1M": IMAGES / rate / 3600, "recoverability": recoverability, "fd": fd,
        }  # fmt: skip
        rows.append(row)
        precision = "original" if original else recipe.precision
        decoder = f"{recipe.decoder}{', compiled' if recipe.compile else ''}"
        figures = "".join(f"{'-':>8}" if value is None else f"{value:>8.3f}" for value in (recoverability, fd))
        print(f"{recipe.scheduler:10}{recipe.steps:>5}{batch:>7}  {precision:<9} {decoder:<16}", end="")
        print(f"{rate:>9.4g}{rate / base:>7.1f}{row['hours_of_1.1M']:>10.1f}{figures}", flush=True)
    return {"original": rows[0], "rows": rows[1:]}


def device_busy(recipe: GeneratorConfig, trained: ModelVersion | None, workspace: Path, device: torch.device) -> float:
    """Fraction of time that the device renders while shards are generated and written; the first is not counted."""
    n = max(256, 4 * int(recipe.batch_size))
    overrides = [f"dataset.n_subjects={3 * n}", f"dataset.shard_size={n}", f"compute.device={device}"]
    overrides += ["dataset.validation_fraction=0", "dataset.test_fraction=0"]
    config = load_config("demo", overrides=overrides).model_copy(update={"generator": recipe})
    images = ImageSpec.of(config, describe(recipe, trained))
    execution = Execution.of(config, trained, Workspace(workspace))
    with TemporaryDirectory() as folder:
        results = [render_shard(images.of_shard(shard), folder, execution) for shard in config.dataset.plan]
    uses = [result.use for result in results[1:] if result.use]
    busy = sum(use.busy_seconds for use in uses) / sum(use.seconds for use in uses)
    print(f"device busy {busy:.1%} of the time while shards of {n} images are written")
    return busy


def varied(recipe: GeneratorConfig, **changes: Any) -> GeneratorConfig:
    """A recipe with some values changed."""
    return recipe.model_copy(update=changes)


def small_table(options: Namespace, device: torch.device, least: float) -> dict[str, Any]:
    """The figures of a registered model, its speed alone with ``--quick``."""
    workspace, quality, busy = Workspace.at(options.workspace), None, None
    default = PRODUCTION if PRODUCTION in workspace.registry.aliases() else PRETRAINED
    trained = workspace.model(options.model or default)
    batch = auto_batch_size(device, trained.metadata.networks.image_size)
    preset = varied(load_config("demo").generator, batch_size=batch, compile=device.type == "cuda")
    recipes = [preset, varied(preset, batch_size=1), varied(preset, batch_size=8), varied(preset, precision="bfloat16")]
    if not options.quick:
        solvers = (("unipc", 5), ("unipc", 10), ("sde-dpm++", 10), ("ddim", 10))
        recipes += [varied(preset, scheduler=name, steps=steps) for name, steps in solvers]
        busy = device_busy(preset, trained, options.workspace, device)
        if (real := training_images(workspace, trained)) is not None:
            quality = partial(
                measure_sampler, vae=load_vae(trained).to(device), real=real, n=options.images, batch_size=batch,
                latent_dims=trained.metadata.measured.latent_order[:RANDOM_EFFECTS], seed=1,
            )  # fmt: skip
    build: Build = lambda recipe: load_diffusion(trained)  # noqa: E731
    table = measure(f"Small model {trained.version}", build, recipes, device, least, quality)
    fraction = fraction_of_matmul_peak(image_model(build, preset, device), preset, least)
    return {"model": trained.version, **table, "fraction_of_matmul_peak": fraction, "device_busy": busy}


def training_images(workspace: Workspace, trained: ModelVersion) -> np.ndarray | None:
    """At most 2,048 training images of a version, uint8 (n, S, S), if they are still in the workspace."""
    for manifest in sorted((workspace.root / "images").glob("*/manifest.json")):
        if json.loads(manifest.read_text(encoding="utf-8")).get("digest") == trained.metadata.images.digest:
            images = open_prepared(manifest.parent)
            return np.array(images.rows(trained.metadata.networks.image_size, "train")[:2048])
    return None


def stable_diffusion_table(size: int, device: torch.device, least: float) -> dict[str, Any]:
    """The figures of Stable Diffusion 1.5's networks at one image size, the recipe of the preset ``paper`` first."""
    cuda = device.type == "cuda"
    batch = auto_batch_size(device, size) if cuda else 1
    paper = varied(load_config("paper").generator, image_size=size, batch_size=batch, compile=cuda)
    if cuda:
        solvers = (("unipc", 10), ("unipc", 7), ("unipc", 5), ("student", 4), ("student", 3))
        recipes = [paper, *(varied(paper, scheduler=name, steps=steps) for name, steps in solvers)]
        seven = recipes[2]
        recipes += [varied(recipe, decoder="light") for recipe in recipes]
        recipes += [varied(seven, batch_size=1), varied(seven, batch_size=8), varied(seven, precision="float16")]
        recipes += [varied(seven, compile=False), varied(paper, scheduler="ddpm", steps=50)]
    else:
        paper = varied(paper, precision="float32")
        light = varied(paper, scheduler="unipc", steps=7, decoder="light")
        recipes = [paper, light, varied(light, scheduler="student", steps=3)]
    title = f"Stable Diffusion 1.5's networks, RANDOM weights, {size}x{size}"
    table = measure(title, RandomStableDiffusion, recipes, device, least)
    table["fraction_of_matmul_peak"] = fraction_of_matmul_peak(random_backend(paper, None, device), paper, least)
    custom = varied(paper, backend="benchmarks.generation:random_backend")
    table["device_busy"] = device_busy(custom, None, Path(), device) if cuda else None
    return table


def work_table() -> dict[str, float]:
    """Print and return the work per image of each recipe in TFLOP, counted by torch without running it."""
    print("\nStable Diffusion 1.5's networks at 512x512: work per image, counted, not measured")
    print(f"{'':28}{'TFLOP':>8}{f'TFLOP/s for 1.1M in {HOURS:g} GPU-hours':>34}")
    with torch.device("meta"):
        model = RandomStableDiffusion(GeneratorConfig(image_size=512, decoder="light"))
        x, t = torch.empty(1, *model.working_shape), torch.empty(1)
        denoise = partial(model.denoise, model.denoiser, x, t, x)
        original = operations(lambda: denoise(torch.empty(1, TOKENS, 768)))
        full, light = operations(lambda: model.decode_full(x)), operations(lambda: model.to_images(x, x))
        model.for_sampling(torch.float32)
        ours = operations(lambda: denoise(model.context(torch.empty(1, 128))))
    table = {"original": (ORIGINAL.steps * original + full) / 1e12}
    solvers = (("sde-dpm++", 10), ("unipc", 7), ("unipc", 5), ("student", 3))
    for decoder, work in (("full", full), ("light", light)):
        for name, steps in solvers:
            table[f"{name} {steps}, {decoder} decoder"] = (evaluations(name, steps) * ours + work) / 1e12
    for recipe, tflop in table.items():
        print(f"{recipe:28}{tflop:>8.2f}{tflop * IMAGES / HOURS / 3600:>34.0f}")
    return table


def main() -> None:
    """Print the tables and the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--large", action="store_true", help="Stable Diffusion's networks also on a CPU")
    parser.add_argument("--workspace", default="workspace", type=Path)
    parser.add_argument("--model", help="version or alias (default: production, else pretrained)")
    parser.add_argument("--images", default=256, type=int, help="number of images for each quality figure")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device, least = default_device(options.device), 0.5 if options.quick else 2.0
    cuda = device.type == "cuda"
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    device_name = torch.cuda.get_device_name(device) if cuda else cpu
    print(device_name)
    small = small_table(options, device, least)
    work = None if options.quick else work_table()
    sizes = (512, 224) if cuda and not options.quick else (224,) if options.large else ()
    large = {str(size): stable_diffusion_table(size, device, least) for size in sizes}
    headline = large.get("512", small)  # the speed is that of the largest networks, the quality the small model's
    original, best = small["original"], small["rows"][0]
    measured = original["fd"] is not None
    losses = {
        f"{name}_loss_percent": loss_percent(original[name], best[name], more_is_better=better) if measured else None
        for name, better in (("recoverability", True), ("fd", False))
    }
    why = {} if measured else dict.fromkeys(losses, "needs the model's training images in the workspace; not --quick")
    if not large:
        why["stable_diffusion"] = "no GPU, or --quick: python -m benchmarks.generation on a machine with one"
    result: dict[str, Any] = {
        "device": device_name,
        "speedup_vs_original": headline["rows"][0]["speedup"],
        **{name: headline["rows"][0][name] for name in ("images_per_second", "hours_of_1.1M")},
        **{name: headline[name] for name in ("fraction_of_matmul_peak", "device_busy")},
        **losses,
        "small": small,
        "stable_diffusion": large or None,
        "work_per_image": work,
        "why": why,
    }
    print_result(("diffusers", "torch"), result)


if __name__ == "__main__":
    main()
