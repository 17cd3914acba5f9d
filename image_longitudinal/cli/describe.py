"""A published data set, one of its subjects, and the registered models, as texts for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import shard_ranges
from image_longitudinal.storage.dataset.reader import Dataset

if TYPE_CHECKING:  # needs torch, which readers do not have
    from image_longitudinal.models.registry.registry import Registry


def describe_dataset(dataset: Dataset) -> str:
    """Size, images, random effects, levels and origin of a published data set."""
    manifest = dataset.manifest
    splits = ", ".join(f"{manifest.splits[name]:,} {name}" for name in manifest.present_splits)
    effects = manifest.random_effects
    if latents := manifest.eta_latents:
        effects = tuple(f"{name} = latent dimension {dim}" for name, dim in zip(effects, latents, strict=True))
    lines = [
        f"{manifest.name}: {len(dataset):,} subjects ({splits})",
        f"images            {manifest.image.height}x{manifest.image.width} uint8, {manifest.image.backend}, "
        f"model {manifest.image.model}",
        f"latents           {manifest.image.latent_dim} dimensions",
        f"random effects    {', '.join(effects)}",
        f"association       {', '.join(map(str, manifest.levels))} (share of variance explained by the image)",
        f"outcomes          {len(manifest.times)} times from {manifest.times[0]:g} to {manifest.times[-1]:g}",
        f"seed              {manifest.seed}",
        f"identity          {manifest.identity[:12]}",
        f"licence           {manifest.licence}",
    ]
    if (found := manifest.readability) and len(found.eta) == len(manifest.random_effects):
        shares = zip(manifest.random_effects, found.eta, strict=True)
        lines.append(f"read from images  {', '.join(f'{share:.3f} of {name}' for name, share in shares)} (R² of η)")
    lines += [f"gate              {one}" for one in manifest.gates or () if not one.passed]
    if study := manifest.study:
        parts = {
            "arms": dataset.arms,
            "covariates": study.columns.covariates,
            "sites": [one.name for one in study.sites],
        }
        lines += [f"{name:17} {', '.join(named)}" for name, named in parts.items() if named]
    if whole := manifest.part_of:
        lines.append(
            f"part of           {whole.identity[:12]}: shards {shard_ranges(whole.shards)} "
            f"of {whole.n_subjects:,} subjects in all, with levels {', '.join(map(str, whole.levels))}"
        )
    if origin := manifest.derived_from:
        reused = ", ".join(f"{name} files of {count} shards" for name, count in origin.reused.items())
        lines.append(f"derived from      {origin.name} {origin.identity[:12]}: shares {reused}")
    return "\n".join(lines)


def describe_subject(dataset: Dataset, subject_id: int) -> str:
    """One subject's numbers, with its image in characters.

    Raises:
        StorageError: the data set has no such subject.
    """
    try:
        subject = dataset.subject(subject_id)
    except IndexError as error:
        raise StorageError("no such subject", where=dataset.root.url, got=error) from error
    lines = [
        f"subject {subject_id} of {dataset.manifest.name}, split {subject.split}",
        "eta linked to the image: " + ", ".join(f"{value:.3f}" for value in subject.linked_eta),
    ]
    names = dataset.manifest.random_effects
    for level, table in subject.random_effects.items():
        used = ", ".join(f"{table[f'eta_{k}'][0].as_py():.3f}" for k in range(1, len(names) + 1))
        lines.append(f"eta used for the outcomes at association {level}: {used}")
    for level, table in subject.observations.items():
        seen = [row for row in table.to_pylist() if row["evid"] == 0]
        shown = ", ".join(f"{row['time']:g}: {row['dv']:.3f}" for row in seen[::4])
        lines.append(f"outcomes at association {level}: {shown}")
    return "\n".join([*lines, "", characters(subject.image)])


def subject_data(dataset: Dataset, subject_id: int) -> dict[str, Any]:
    """The same numbers for programs; StorageError as above."""
    subject = dataset.subject(subject_id)
    tables = {"random_effects": subject.random_effects, "observations": subject.observations}
    by_level = {name: {level: table.to_pylist() for level, table in rows.items()} for name, rows in tables.items()}
    return {"id": subject_id, "split": subject.split, "linked_eta": subject.linked_eta.tolist(), **by_level}


def model_data(registry: Registry) -> list[dict[str, Any]]:
    """The registered versions for programs."""
    aliases = registry.aliases()
    intact = [
        {"version": one.version, "aliases": [alias for alias, name in aliases.items() if name == one.version],
         "backend": one.metadata.backend, "image_size": one.metadata.networks.image_size,
         "metrics": one.metadata.metrics}
        for one in registry.versions()
    ]  # fmt: skip
    return intact + [{"version": name, "damaged": str(problem)} for name, problem in registry.damaged().items()]


def describe_models(registry: Registry) -> str:
    """The registered versions, one per line: name, aliases, backend, image size, metrics, or what is damaged."""
    aliases, lines = sorted(registry.aliases().items()), []
    for version in registry.versions():
        metadata = version.metadata
        names = ", ".join(alias for alias, name in aliases if name == version.version)
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in metadata.metrics.items())
        size = f"{metadata.networks.image_size}x{metadata.networks.image_size}"
        lines.append(f"{version.version}  {names:<22}  {metadata.backend:<10} {size:<8} {metrics}".rstrip())
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
