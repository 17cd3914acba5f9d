"""Texts for people: the plan of a run before it starts, a data set, one subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import shard_ranges
from image_longitudinal.core.units import duration, human_bytes
from image_longitudinal.storage.dataset.manifest import RootManifest
from image_longitudinal.storage.dataset.reader import Dataset

if TYPE_CHECKING:  # a plan should not wait for torch
    from image_longitudinal.models.registry.registry import Registry

# Rough costs for the guess, measured on two cores (AMD EPYC); a GPU is far faster. Seconds at 64x64, by width squared.
_VAE_STEP, _DIFFUSION_STEP, _SOLVER_STEP = 0.15, 0.33, 0.0022
_START, _SUBJECT = 25.0, 0.0004
_ROW_BYTES = 7.0  # of an observations row, compressed


def describe_plan(config: Config, *, training: bool, generation: bool) -> str:
    """What a run is going to do: steps, shards, bytes and a guess of the time on two CPU cores."""
    lines, seconds = [], _START
    backend = config.generator.backend
    if training and backend != "phantom":
        vae, diffusion = config.vae, config.diffusion
        lines.append(f"train VAE         {vae.steps:,} steps of {vae.batch_size} at {vae.image_size}x{vae.image_size}")
        perception = vae.vgg_weights or "MS-SSIM, for want of VGG16 weights (vae.vgg_weights)"
        lines.append(f"perceptual loss   {perception}")
        seconds += vae.steps * _VAE_STEP * vae.batch_size / 32 * (vae.image_size / 64) ** 2 * (vae.width / 0.25) ** 1.5
        if backend != "vae":
            lines.append(
                f"train diffusion   {diffusion.steps:,} steps of {diffusion.batch_size} at "
                f"{diffusion.image_size}x{diffusion.image_size} ({diffusion.kind})"
            )
            seconds += diffusion.steps * _DIFFUSION_STEP * diffusion.batch_size / 32 * _diffusion_scale(config)
    if generation:
        dataset, size = config.dataset, _image_size(config)
        shards = dataset.plan
        splits = ", ".join(f"{count:,} {name}" for name, count in shards.split_counts.items() if count)
        pixels = dataset.n_subjects * size**2
        rows = dataset.n_subjects * len(dataset.association) * (len(config.outcomes.times) + len(config.outcomes.given))
        how = (
            f"{backend}, {config.generator.scheduler} {config.generator.steps} steps"
            if backend == "diffusion"
            else backend
        )
        lines += [
            f"make images       {dataset.n_subjects:,} at {size}x{size} ({how})",
            f"make outcomes     {len(dataset.association)} association levels "
            f"({', '.join(map(str, dataset.association))}), {rows:,} rows, model {config.outcomes.model}",
            f"in shards         {shards.n_shards:,} of {dataset.shard_size:,} subjects ({splits})",
            f"size              about {human_bytes(0.8 * pixels + _ROW_BYTES * rows)}",
        ]
        seconds += dataset.n_subjects * _SUBJECT
        if backend == "diffusion":
            seconds += dataset.n_subjects * config.generator.steps * _SOLVER_STEP * _diffusion_scale(config)
    lines.append(f"time              about {duration(seconds)} on two CPU cores (a guess; a GPU is far faster)")
    return "\n".join(lines)


def describe_dataset(dataset: Dataset) -> str:
    """What a published data set is."""
    manifest = dataset.manifest
    splits = ", ".join(f"{manifest.splits[name]:,} {name}" for name in manifest.present_splits)
    effects = ", ".join(
        name if manifest.eta_latents is None else f"{name} = latent entry {manifest.eta_latents[index]}"
        for index, name in enumerate(manifest.random_effects)
    )
    return "\n".join(
        [
            f"{manifest.name}: {len(dataset):,} subjects ({splits})",
            f"images            {manifest.image.height}x{manifest.image.width} uint8, {manifest.image.backend}, "
            f"model {manifest.image.model}",
            f"latents           {manifest.image.latent_dim} entries",
            f"random effects    {effects}",
            f"association       {', '.join(map(str, manifest.levels))} (share of variance tied to the image)",
            f"outcomes          {len(manifest.times)} times from {manifest.times[0]:g} to {manifest.times[-1]:g}",
            f"seed              {manifest.seed}",
            f"identity          {manifest.identity[:12]}",
            f"licence           {manifest.licence}",
            *_lineage(manifest),
        ]
    )


def _lineage(manifest: RootManifest) -> list[str]:
    lines = []
    if whole := manifest.part_of:
        lines.append(
            f"part of           {whole.identity[:12]}: shards {shard_ranges(whole.shards)} "
            f"of {whole.n_subjects:,} subjects in all, with levels {', '.join(map(str, whole.levels))}"
        )
    if origin := manifest.derived_from:
        reused = ", ".join(f"{name} files of {count} shards" for name, count in origin.reused.items())
        lines.append(f"derived from      {origin.name} {origin.identity[:12]}: shares {reused}")
    return lines


def describe_subject(dataset: Dataset, subject_id: int) -> str:
    """One subject's numbers, with its image in characters.

    Raises:
        StorageError: there is no such subject here.
    """
    try:
        subject = dataset.subject(subject_id)
    except IndexError as error:
        raise StorageError("no such subject", where=dataset.root.url, got=error) from error
    lines = [f"subject {subject_id} of {dataset.manifest.name}, split {subject.split}"]
    lines.append("eta linked to the image: " + ", ".join(f"{value:.3f}" for value in subject.eta))
    names = dataset.manifest.random_effects
    for level, table in subject.random_effects.items():
        used = ", ".join(f"{table[f'eta_{k}'][0].as_py():.3f}" for k in range(1, len(names) + 1))
        lines.append(f"eta behind the outcomes at association {level}: {used}")
    for level, table in subject.observations.items():
        seen = [row for row in table.to_pylist() if row["evid"] == 0]
        shown = ", ".join(f"{row['time']:g}: {row['dv']:.3f}" for row in seen[::4])
        lines.append(f"outcomes at association {level}: {shown}")
    return "\n".join([*lines, "", characters(subject.image)])


def describe_models(registry: Registry) -> str:
    """The registered versions, one a line: name, aliases, what it makes, metrics; damaged ones with the reason."""
    aliases: dict[str, list[str]] = {}
    for alias, name in registry.aliases().items():
        aliases.setdefault(name, []).append(alias)
    lines = []
    for version in registry.versions():
        told = version.metadata
        names = ", ".join(sorted(aliases.get(version.version, [])))
        network = told.get("diffusion") or told.get("vae") or {}
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in told.get("metrics", {}).items())
        size = f"{network['image_size']}x{network['image_size']}" if "image_size" in network else ""
        lines.append(f"{version.version}  {names:<22}  {told.get('backend', ''):<10} {size:<8} {metrics}".rstrip())
    lines += [f"{name}  damaged: {problem}" for name, problem in registry.damaged().items()]
    return "\n".join(lines) or f"no models in {registry.shared.url if registry.shared else registry.root}"


def characters(image: np.ndarray, width: int = 64) -> str:
    """A grey image (H, W) uint8 as text, darker to brighter, for terminals."""
    ramp = " .:-=+*#%@"
    block = -(-image.shape[1] // width)
    rows, columns = image.shape[0] // (2 * block), image.shape[1] // block
    cut = image[: rows * 2 * block, : columns * block].astype(float)
    levels = cut.reshape(rows, 2 * block, columns, block).mean((1, 3)) / 256 * len(ramp)
    return "\n".join("".join(ramp[int(level)] for level in row) for row in levels)


def _image_size(config: Config) -> int:
    sizes = {"phantom": config.generator.image_size, "vae": config.vae.image_size}
    return sizes.get(config.generator.backend, config.diffusion.image_size)


def _diffusion_scale(config: Config) -> float:
    """Cost of one pass of the diffusion network relative to the demo's, by arithmetic (SD 1.5: 803 GFLOP a pass)."""
    diffusion = config.diffusion
    if diffusion.kind == "stable-diffusion":
        return 803 / 0.32 * (diffusion.image_size / 512) ** 2
    return (diffusion.image_size / 64) ** 2 * (sum(diffusion.channels) / 160) ** 2
