"""Stable Diffusion 1.5's networks with random weights: as fast as the real ones; their images are noise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.sampling import IMAGES, TOKENS, Recipe, device_busy, generator, matmul_peak, measure, network_rate
from image_longitudinal.core.config import GeneratorConfig
from image_longitudinal.core.presets import load_config
from image_longitudinal.models.diffusion.diffusion_model import DiffusionModel
from image_longitudinal.models.diffusion.distillation import build_light_decoder
from image_longitudinal.models.diffusion.solvers import evaluations
from image_longitudinal.models.diffusion.stable_diffusion import StableDiffusion
from image_longitudinal.models.imaging.backends import NetworkImages, diffusion_images
from image_longitudinal.models.imaging.device import auto_batch_size
from image_longitudinal.models.registry.registry import ModelVersion

HOURS = 6.0  # of a GPU: the target for the published data set
RECIPES = (
    ("ddpm", 50, "full"), ("sde-dpm++", 10, "full"), ("unipc", 7, "full"), ("unipc", 5, "full"),
    ("sde-dpm++", 10, "light"), ("unipc", 7, "light"), ("unipc", 5, "light"), ("student", 3, "light"),
)  # fmt: skip


class RandomStableDiffusion(StableDiffusion):
    """The networks at their own size, for images of any size."""

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


def random_backend(config: GeneratorConfig, version: ModelVersion | None, device: torch.device) -> NetworkImages:
    """A custom backend for ``generator.backend``: these networks, sampled as configured."""
    model: StableDiffusion = RandomStableDiffusion(config.image_size)
    if config.decoder == "light":
        model.light = build_light_decoder(model, 64, 1)
    model.for_sampling(getattr(torch, config.precision), config.compile is True)
    return diffusion_images(model.to(device), config.scheduler, config.steps, device, "random")


def work_table(image_size: int) -> list[dict[str, float | int | str]]:
    """Print and return the work per image of each recipe, counted by torch without running it."""
    print(f"\nStable Diffusion 1.5's networks at {image_size}x{image_size}: work per image, counted, not measured")
    print(f"{'solver':10}{'steps':>5}  {'decoder':<8}{'TFLOP':>7}{'TFLOP/s for 1.1M in 6 GPU-hours':>34}")
    with torch.device("meta"):
        model = RandomStableDiffusion(image_size)
        model.light = build_light_decoder(model, 64, 1)
        x, t = torch.empty(1, *model.working_shape), torch.empty(1)
        original = _work(lambda: model.denoise(model.denoiser, x, t, x, torch.empty(1, TOKENS, 768)))
        decoders = {"full": _work(lambda: model.decode_full(x)), "light": _work(lambda: model.to_images(x, x))}
        model.for_sampling(torch.float32)
        ours = _work(lambda: model.denoise(model.denoiser, x, t, x, model.context(torch.empty(1, 128))))
    rows: list[dict[str, float | int | str]] = []
    for scheduler, steps, decoder in RECIPES:
        network = original if scheduler == "ddpm" else ours
        work = (evaluations(scheduler, steps) * network + decoders[decoder]) / 1e12
        required = work * IMAGES / HOURS / 3600
        print(f"{scheduler:10}{steps:>5}  {decoder:<8}{work:>7.2f}{required:>34.0f}")
        rows.append({"scheduler": scheduler, "steps": steps, "decoder": decoder, "tflop_per_image": work,
                     "tflop_per_second_for_6_gpu_hours": required})  # fmt: skip
    return rows


@torch.no_grad()
def _work(call: Callable[[], Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def large_recipes(device: torch.device, size: int) -> list[Recipe]:
    """Recipes for Stable Diffusion's networks, that of the preset ``paper`` first."""
    ours = load_config("paper").generator
    if device.type != "cuda":
        few = [(ours.scheduler, ours.steps, "full"), ("unipc", 7, "light"), ("student", 3, "light")]
        return [Recipe(scheduler, steps, 1, torch.float32, False, decoder) for scheduler, steps, decoder in few]
    batch, precise = auto_batch_size(device, size), torch.bfloat16
    solvers = [(ours.scheduler, ours.steps), ("unipc", 10), ("unipc", 7), ("unipc", 5), ("student", 4), ("student", 3)]
    recipes = [Recipe(*solver, batch, precise, True, decoder) for decoder in ("full", "light") for solver in solvers]
    recipes += [Recipe("unipc", 7, count, precise, True) for count in (1, 8)]
    recipes += [Recipe("unipc", 7, batch, torch.float16, True), Recipe("unipc", 7, batch, precise, False)]
    recipes.append(Recipe("ddpm", 50, batch, precise, True))
    return list(dict.fromkeys(recipes))


def stable_diffusion_tables(device: torch.device, sizes: tuple[int, ...], least: float) -> dict[str, Any]:
    """Speed of the SD 1.5 networks, the fraction of matmul peak that their UNet reaches, and how busy the device is."""
    found: dict[str, Any] = {}
    for size in sizes:
        make = lambda size=size: RandomStableDiffusion(size)  # noqa: E731
        recipes = large_recipes(device, size)
        chosen = recipes[0]

        def prepare(recipe: Recipe, size: int = size) -> DiffusionModel:
            network = random_backend(generator(recipe, size), None, device).network
            assert isinstance(network, DiffusionModel)
            return network

        table = measure(
            f"Stable Diffusion 1.5's networks, RANDOM weights, {size}x{size}", make, prepare, recipes, device, least
        )
        table["fraction_of_matmul_peak"] = network_rate(prepare(chosen), chosen, device, least) / matmul_peak(
            device, chosen.dtype, least
        )
        print(f"UNet: {table['fraction_of_matmul_peak']:.1%} of the measured matmul peak")
        if device.type == "cuda":
            own = generator(chosen, size, backend=f"{random_backend.__module__}:{random_backend.__name__}")
            table["device_busy"] = device_busy(own, None, Path(), device, 4 * chosen.batch)
        found[str(size)] = table
    return found
