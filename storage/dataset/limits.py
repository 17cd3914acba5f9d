"""What a root manifest may ask of its readers: names, counts and shapes that fit each other and any machine."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from image_longitudinal.storage.dataset import layout

if TYPE_CHECKING:
    from image_longitudinal.storage.dataset.manifest import RootManifest

MAX_SUBJECTS: Final = 10**10
MAX_SHARDS: Final = 200_000  # more do not fit into a manifest
MAX_SHARD: Final = 1_000_000  # subjects: an index of 16 MB
MAX_SIDE: Final = 16_384  # pixels: an image of 268 MB
MAX_LATENTS: Final = 1 << 28  # numbers of the latents of one shard: 1 GiB


def check_limits(manifest: RootManifest) -> None:
    """ValueError if a reader of the data set would fail, hang or run out of memory for what the manifest says."""
    whole, dims = manifest.part_of or manifest, manifest.eta_latents
    n_shards, n_latents = -(-whole.n_subjects // manifest.shard_size), manifest.image.latent_dim
    n_eta = len(manifest.random_effects)
    columns = ("id", "association", "split", *layout.eta_columns(n_eta), *manifest.parameters)
    files, names = (*manifest.files, *manifest.shards), {layout.ROOT_MANIFEST, layout.LEASE}
    expectations = [
        (f"at most {MAX_SHARDS:,} shards", n_shards <= MAX_SHARDS),
        ("splits that add up to the subjects", sum(manifest.splits.values()) == manifest.n_subjects),
        ("splits that add up to the subjects of the whole", sum(whole.splits.values()) == whole.n_subjects),
        ("training subjects", whole.splits.get("train", 0) > 0),
        ("association levels that differ", len(set(manifest.levels)) == len(manifest.levels)),
        (f"at most {MAX_LATENTS:,} latent numbers in a shard", manifest.shard_size * n_latents <= MAX_LATENTS),
        ("a latent dimension for each random effect", dims is None or len(dims) == n_eta),
        ("latent dimensions of the image", all(0 <= dim < n_latents for dim in dims or ())),
        ("parameters with names of their own", len(set(columns)) == len(columns)),
        ("a study design of these random effects", _is_of_effects(manifest)),
        ("numbers that describe the visits", _describes_visits(manifest.config.get("outcomes", {}))),
        ("files of the data set", all(file.path not in names for file in files)),
    ]
    if manifest.part_of:
        chosen = manifest.part_of.shards
        expectations.append(("ascending shards", all(a < b for a, b in itertools.pairwise(chosen))))
        expectations.append(("shards of the whole", all(0 <= index < n_shards for index in chosen)))
    for expected, found in expectations:
        if not found:
            raise ValueError(f"expected {expected}")


def _is_of_effects(manifest: RootManifest) -> bool:
    if (study := manifest.study) is None:
        return True
    levels = {layout.level_name(level) for level in (manifest.part_of or manifest).levels}
    names = [field.name for field in study.columns.of_subjects()]
    return (
        set(study.association) == levels
        and all(len(each) == len(manifest.random_effects) for each in study.association.values())
        and len(set(names)) == len(names)
        and len(set(study.columns.arms)) == len(study.arms)
    )


def _describes_visits(outcomes: object) -> bool:
    """Whether the section ``outcomes`` of a configuration, of whatever version, can be read by this one's readers."""
    if not isinstance(outcomes, dict):
        return False
    return all(isinstance(outcomes.get(name, 0), int | float) for name in ("jitter", "missed", "dropout"))
