"""The plan of a run before it starts: steps, shards, bytes, and an estimate of the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from image_longitudinal.core.config import Config, DiffusionConfig
from image_longitudinal.core.estimates import expected_bytes, image_side, observation_rows
from image_longitudinal.core.plan_warnings import plan_warnings
from image_longitudinal.core.progress import duration, human_bytes

if TYPE_CHECKING:  # imports torch, which readers do not have
    from image_longitudinal.tasks.preflight import Found

# Seconds, measured on two cores (AMD EPYC) with the demo's networks at 64x64; a GPU is far faster.
_VAE_STEP, _DIFFUSION_STEP, _SOLVER_STEP = 0.15, 0.33, 0.0022
_START, _SUBJECT = 25.0, 0.0004
_RETINA, _MEASURED = 50.0, 150.0  # curve and components; recoverability, judge and copies of a trained model
_READ_BACK = 15.0  # z of 128 finished images of a flattened retina


def describe_plan(config: Config, *, training: bool, generation: bool, found: Found | None = None) -> str:
    """What a run will do: training steps, images, outcomes, shards, bytes, and an estimate of the time on two cores.

    ``found``: what is there already, if that is known.
    """
    lines, seconds = [], _START
    if found and found.model:
        lines.append(f"model             {found.model}")
    if found and found.scans:
        lines.append(f"scans             {found.scans:,} files")
    backend = config.generator.backend
    if training and backend != "phantom":
        vae, diffusion = config.vae, config.diffusion
        seconds += _MEASURED
        if vae.kind == "flattened":
            seconds += _RETINA
            lines.append(f"fit retina        curve and {vae.latent_dim - 4} components, size {vae.image_size}")
        else:
            lines.append(f"train VAE         {vae.steps:,} steps of {vae.batch_size}, size {vae.image_size}")
            perception = vae.vgg_weights or "MS-SSIM; set vae.vgg_weights for VGG16 features"
            lines.append(f"perceptual loss   {perception}")
            cost = vae.batch_size / 32 * (vae.image_size / 64) ** 2 * (vae.width / 0.25) ** 1.5
            seconds += vae.steps * _VAE_STEP * cost
        if backend != "vae":
            lines.append(
                f"train diffusion   {diffusion.steps:,} steps of {diffusion.batch_size} at "
                f"{diffusion.image_size}x{diffusion.image_size} ({diffusion.kind})"
            )
            seconds += diffusion.steps * _DIFFUSION_STEP * diffusion.batch_size / 32 * _diffusion_scale(diffusion)
    if generation:
        dataset, shards = config.dataset, config.dataset.plan
        size, rows = (found and found.image_side) or image_side(config), observation_rows(config)
        n_missing = dataset.n_subjects
        splits = ", ".join(f"{count:,} {name}" for name, count in shards.split_counts.items() if count)
        diffusion_steps = f", {config.generator.scheduler} {config.generator.steps} steps"
        method = backend + (diffusion_steps if backend == "diffusion" else "")
        lines += [
            f"images            those of {found.reused}, as far as they fit; the others are generated ({method})"
            if found and found.reused
            else f"generate images   {dataset.n_subjects:,} at {size}x{size} ({method})",
            f"outcomes          {len(dataset.association)} association levels "
            f"({', '.join(map(str, dataset.association))}), {rows:,} rows, model {config.outcomes.model}",
            f"in shards         {shards.n_shards:,} of {dataset.shard_size:,} subjects ({splits})",
            f"size              about {human_bytes(expected_bytes(config, size))}",
        ]
        if config.study.active:
            lines.append(f"study design      {_study(config)}")
        if found and found.finished:
            n_missing = max(0, n_missing - found.finished * dataset.shard_size)
            lines.append(f"finished          {found.finished:,} of {shards.n_shards:,} shards are there and are kept")
        if found and found.free is not None:
            lines.append(f"free              {human_bytes(found.free)} where it is written")
        seconds += n_missing * _SUBJECT
        network = (found and found.diffusion) or config.diffusion  # that of the model that is used
        if backend == "diffusion" and not (found and found.reused):
            seconds += n_missing * config.generator.steps * _SOLVER_STEP * _diffusion_scale(network)
        if backend == "diffusion" and network.kind == "flattened":
            seconds += _READ_BACK
    lines.append(f"time              about {duration(round(seconds, -1))} on two CPU cores; a GPU is far faster")
    lines += [f"warning           {warning}" for warning in plan_warnings(config, generation=generation)]
    return "\n".join(lines)


def _study(config: Config) -> str:
    """Arms, covariates and sites of the study design in words."""
    study = config.study
    parts = {
        f"arms {', '.join(arm.name for arm in study.arms)} ({study.assignment.kind})": study.arms,
        f"covariates {', '.join(one.name for one in study.covariates)}": study.covariates,
        f"sites {', '.join(site.name for site in study.sites)}": study.sites,
        f"own association of {', '.join(one.effect for one in study.association)}": study.association,
    }
    return "; ".join(text for text, named in parts.items() if named) or "no arms, covariates or sites"


def _diffusion_scale(diffusion: DiffusionConfig) -> float:
    """Cost of one call of the diffusion network relative to one with channels 64 and 96 at 64x64.

    By its operations (Stable Diffusion 1.5: 803 GFLOP); of flattened retinas as measured for channels 32, 48, 96 and
    32, 96, 128, where the first level takes most of the time.
    """
    if diffusion.kind == "stable-diffusion":
        return 803 / 0.32 * (diffusion.image_size / 512) ** 2
    if diffusion.kind == "flattened":  # the same grid at every size
        return 2.7 * (sum(diffusion.channels) / 256) ** 1.4
    return (diffusion.image_size / 64) ** 2 * (sum(diffusion.channels) / 160) ** 2
