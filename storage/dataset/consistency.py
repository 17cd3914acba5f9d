"""A root manifest against itself, its configuration and the files that repeat what it says.

A digest of its own content finds damage, not a change whose author computed the digest again. So everything that a data
set says twice is compared here, and :mod:`tasks.shards.provenance` derives what follows from the configuration. Said
once, and so not checked: ``versions``, ``readability`` and ``gates``, which are measured, and ``part_of.manifest``, the
digest of a manifest that is elsewhere.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from image_longitudinal.core.config import Config
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.presets import validate_config
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.manifest import PartOf, RootManifest
from image_longitudinal.storage.io.root import Root

Documents = Mapping[str, dict[str, Any] | None]  # content by path


class Contradiction(NamedTuple):
    """One statement of a root manifest, what another place says, and what the manifest says."""

    what: str
    expected: object
    got: object


def contradictions(root: Root, manifest: RootManifest, damaged: Collection[str] = ()) -> Iterator[Contradiction]:
    """Every statement of a manifest that something else in its data set denies; files that are damaged say nothing."""
    documents = (layout.RUN_FILE, layout.CROISSANT, *layout.zarr_metadata_paths())
    said = {path: _json(root, path) for path in documents if path not in damaged and root.exists(path)}
    pairs = [*_of_the_manifest(manifest), *_of_the_claim(said, manifest), *_of_the_arrays(said, manifest)]
    pairs += _of_the_description(said, manifest)
    with contextlib.suppress(ConfigError):  # of another version: its digest, and the claim, are compared above
        pairs += _of_the_configuration(manifest, validate_config(manifest.config, where=root.url))
    for what, expected, got in pairs:
        if _plain(expected) != _plain(got):
            yield Contradiction(what, expected, got)


def _of_the_manifest(manifest: RootManifest) -> Iterator[Contradiction]:
    plan = manifest.plan
    yield Contradiction("config_digest", digest_of(manifest.config), manifest.config_digest)
    counts = Counter[str]()
    for shard in plan:
        for part in shard.splits:
            counts[part.split] += part.stop - part.start
    yield Contradiction("splits", dict(counts), manifest.splits)
    yield Contradiction("n_subjects", counts.total(), manifest.n_subjects)
    yield Contradiction("shards", [layout.shard_manifest_path(shard.index) for shard in plan],
                        [file.path for file in manifest.shards])  # fmt: skip
    yield Contradiction("rows of files that are no tables", {None},
                        {None} | {file.rows for file in (*manifest.shards, *manifest.files)})  # fmt: skip
    yield Contradiction("units", sorted(layout.DEFAULT_UNITS), sorted(manifest.units))
    if of := manifest.part_of:
        yield Contradiction("identity", part_identity(of, manifest), manifest.identity)
        yield Contradiction("part_of.n_subjects", sum(of.splits.values()), of.n_subjects)
        yield Contradiction("levels of the whole", True, set(manifest.levels) <= set(of.levels))


def part_identity(of: PartOf, manifest: RootManifest) -> str:
    """The identity of a part of a data set, from its splits, levels and shards and the identity of the whole."""
    return digest_of("part", of.identity, of.shards, sorted(manifest.splits), manifest.levels)


def _of_the_claim(said: Documents, manifest: RootManifest) -> Iterator[Contradiction]:
    if claim := said.get(layout.RUN_FILE):
        recorded = manifest.model_dump(mode="json", include={"identity", "config", "derived_from", "layout_version"})
        for name, value in recorded.items():
            yield Contradiction(f"{name} of {layout.RUN_FILE}", claim.get(name), value)


def _of_the_arrays(said: Documents, manifest: RootManifest) -> Iterator[Contradiction]:
    image, n, size = manifest.image, manifest.plan.n_subjects, manifest.shard_size
    shapes = {"image": (image.height, image.width), "latent": (image.latent_dim,)}
    for name, row in shapes.items():
        if metadata := said.get(f"{layout.IMAGES}/{name}/zarr.json"):
            chunks = metadata.get("chunk_grid", {}).get("configuration", {}).get("chunk_shape")
            yield Contradiction(f"shape of {name}", metadata.get("shape"), [n, *row])
            yield Contradiction(f"shards of {name}", chunks, [size, *row])
    if group := said.get(f"{layout.IMAGES}/zarr.json"):
        attributes = group.get("attributes", {})
        if "licence" in attributes:
            yield Contradiction("licence of the images", attributes["licence"], manifest.licence)
        if "layout_version" in attributes:
            yield Contradiction("layout version of the images", attributes["layout_version"], manifest.layout_version)


def _of_the_description(said: Documents, manifest: RootManifest) -> Iterator[Contradiction]:
    if described := said.get(layout.CROISSANT):
        place = f"of {layout.CROISSANT}"
        yield Contradiction(f"name {place}", described.get("name"), manifest.name)
        yield Contradiction(f"citation {place}", described.get("citeAs"), manifest.citation.strip())
        yield Contradiction(f"date {place}", described.get("datePublished"), manifest.date)
        licence = f"https://spdx.org/licenses/{manifest.licence}.html"
        yield Contradiction(f"licence {place}", described.get("license"), licence)


def _of_the_configuration(manifest: RootManifest, config: Config) -> Iterator[Contradiction]:
    whole, dataset, outcomes = manifest.part_of or manifest, config.dataset, config.outcomes
    said: dict[str, tuple[object, object]] = {
        "seed": (config.seed, manifest.seed),
        "name": (dataset.name, manifest.name),
        "date": (dataset.date, manifest.date),
        "licence": (dataset.licence, manifest.licence),
        "n_subjects": (dataset.n_subjects, whole.n_subjects),
        "shard_size": (dataset.shard_size, manifest.shard_size),
        "splits": (dataset.plan.split_counts, whole.splits),
        "levels": (dataset.association, whole.levels),
        "times": (outcomes.times, manifest.times),
        "doses": (outcomes.given, manifest.doses),
        "image.backend": (config.generator.backend, manifest.image.backend),
    }
    for name, (expected, got) in said.items():
        yield Contradiction(f"{name} of the configuration", expected, got)


def _json(root: Root, path: str) -> dict[str, Any] | None:
    """The JSON object of a file; None if it is none."""
    try:
        content = json.loads(root.read_bytes(path))
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _plain(value: Any) -> Any:
    """Tuples as lists, and no key for a zero: two records of the same statement compare equal."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if one != 0}
    return value
