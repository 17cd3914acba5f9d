"""Reusing a published data set: the shard files of another that this one would make just the same.

Association levels, splits or outcome models that are added later change no image, so a new version of a data set takes
the images of the old one: hard links on one disk, server-side copies within one object store, copies otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.manifest import (
    Origin,
    RootManifest,
    content_digest,
    read_root_manifest,
    read_shard_manifest,
)
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.shards.parts import image_key, outcome_key, part_result
from image_longitudinal.tasks.shards.spec import DatasetSpec


@dataclass(frozen=True)
class Found:
    """A shard's part that is made already; it takes the place of the future of the task that would make it."""

    value: dict[str, Any]

    def result(self) -> dict[str, Any]:
        """What the task would have returned."""
        return self.value


@dataclass(frozen=True)
class Parts:
    """Parts that are made already, by shard index."""

    images: Mapping[int, Found] = field(default_factory=dict)
    outcomes: Mapping[int, Found] = field(default_factory=dict)


@dataclass(frozen=True)
class Reusable:
    """What a data set has for another."""

    origin: Origin
    parts: Parts


def find_reusable(url: str, spec: DatasetSpec) -> Reusable:
    """The parts of a published data set that ``spec`` would make just the same, by their keys.

    Raises:
        StorageError: nothing is published there, or none of its images is one of this data set's.
    """
    root = open_root(url)
    manifest = read_root_manifest(root)
    here = {shard.index for shard in manifest.plan}
    images, outcomes = {}, {}
    for shard in spec.plan:
        made = read_shard_manifest(root, shard.index) if shard.index in here else None
        parts = made.parts if made else {}
        if (image := parts.get("image")) and image.key == image_key(spec, shard):
            images[shard.index] = Found(part_result(root.url, image))
        if (outcome := parts.get("outcomes")) and outcome.key == outcome_key(spec, shard):
            outcomes[shard.index] = Found(part_result(root.url, outcome))
    if not images:
        raise StorageError(
            "none of the images there is one of this data set's",
            where=root.url,
            expected="the same image model, seed, shard size and batch size",
            got=f"another {_differences(manifest, spec)}",
            do="leave --reuse out to make the images, or take these values from the data set to be reused",
        )
    counts = {"image": len(images), "outcomes": len(outcomes)}
    origin = Origin(
        name=manifest.name,
        identity=manifest.identity,
        manifest=content_digest(manifest),
        reused={name: count for name, count in counts.items() if count},
    )
    return Reusable(origin, Parts(images, outcomes))


def _differences(there: RootManifest, spec: DatasetSpec) -> str:
    generator, config = there.config.get("generator", {}), spec.config
    pairs = {
        "image model": (there.image.digest[:12], spec.model_digest[:12]),
        "seed": (there.seed, config.seed),
        "shard size": (there.shard_size, config.dataset.shard_size),
        "batch size": (generator.get("batch_size"), config.generator.batch_size),
    }
    changed = [f"{name} ({old}, here {new})" for name, (old, new) in pairs.items() if old != new]
    return " and ".join(changed) or "version of this software"
