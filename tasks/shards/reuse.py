"""Reuse a published data set: find the shard files of another data set that this one would generate identically.

Other association levels, splits or outcome models change no image, so a new version of a data set takes the images of
the old one: hard links on one disk, server-side copies within one object store, copies otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping

from image_longitudinal.core.config import Section
from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.manifest import (
    Origin,
    RootManifest,
    content_digest,
    read_root_manifest,
    read_shard_manifest,
)
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.shards.image_shards import ShardPartResult
from image_longitudinal.tasks.shards.parts import unshared
from image_longitudinal.tasks.shards.spec import DatasetSpec


class ReusableParts(Section):
    """Parts of shards that exist elsewhere, by shard index."""

    images: Mapping[int, ShardPartResult] = {}
    outcomes: Mapping[int, ShardPartResult] = {}

    def of_shards(self, indices: list[int]) -> ReusableParts:
        """The parts of these shards only."""
        return ReusableParts(
            **{name: {index: parts[index] for index in indices if index in parts} for name, parts in self}
        )


def find_reusable(url: str, spec: DatasetSpec) -> tuple[Origin, ReusableParts]:
    """The parts of a published data set with the same digests as those of ``spec``, and how a manifest records them.

    Raises:
        StorageError: nothing is published there, or none of its images belongs to ``spec``.
    """
    root = open_root(url)
    manifest = read_root_manifest(root)
    present = {shard.index for shard in manifest.plan}
    found: dict[str, dict[int, ShardPartResult]] = {"image": {}, "outcomes": {}}
    for shard in spec.plan:
        made = read_shard_manifest(root, shard.index) if shard.index in present else None
        for name, key in spec.shard_keys(shard).items():
            part = made.parts.get(name) if made else None
            if part and part.key == key:
                found[name][shard.index] = unshared(ShardPartResult(root=root.url, part=part))
    if not found["image"]:
        raise StorageError(
            "no image of that data set can be reused",
            where=root.url,
            expected="the same image model, seed, shard size and batch size",
            got=f"another {_differences(manifest, spec)}",
            do="leave out --reuse to generate the images, or use these values of that data set",
        )
    reused = {name: len(parts) for name, parts in found.items() if parts}
    origin = Origin(name=manifest.name, identity=manifest.identity, manifest=content_digest(manifest), reused=reused)
    return origin, ReusableParts(images=found["image"], outcomes=found["outcomes"])


def _differences(there: RootManifest, spec: DatasetSpec) -> str:
    images = spec.images
    pairs = [
        ("image model", there.image.digest[:12], images.generator[:12]),
        ("seed", there.seed, images.seed),
        ("shard size", there.shard_size, images.shard_size),
        ("batch size", there.config.get("generator", {}).get("batch_size"), images.batch_size),
    ]
    changed = [f"{name} ({old}, here {new})" for name, old, new in pairs if old != new]
    return " and ".join(changed) or "version of this software"
