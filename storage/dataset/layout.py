"""Layout version 1 of a data set: the name of every file, and the columns and units of every table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import pyarrow as pa

from image_longitudinal.core.plan import Shard

LAYOUT_VERSION = 1

ROOT_MANIFEST = "dataset.json"  # written last: its presence is what "published" means
RUN_FILE = ".run.json"  # written first, removed at publishing: whose half-made data set this is
LEASE = ".run.lock"  # there while a run writes, or where one was killed: never part of the data set
HUB_FILE = ".gitattributes"  # the Hugging Face hub puts it into every repository
CARD = "README.md"
EXAMPLES = "examples.png"  # what the card shows
CROISSANT = "croissant.json"
IMAGES = "images.zarr"

TABLES = ("subjects", "random_effects", "observations")
TABLE_DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "subjects": "Who the subjects are, and the random effects linked to their images",
        "random_effects": "Random effects behind the outcomes, and the individual parameters they give",
        "observations": "Doses and outcomes in long format, sorted by id and time",
    }
)

DEFAULT_UNITS: Mapping[str, str] = MappingProxyType({"time": "h", "amt": "1", "dv": "1"})
"""Units of time, dose and outcome. "1" is no unit: in the original's model the dose is 1 and all is relative to it."""


def image_shard_path(index: int) -> str:
    """The Zarr shard object that holds the images of shard ``index``."""
    return f"{IMAGES}/image/c/{index}/0/0"


def latent_shard_path(index: int) -> str:
    """The Zarr shard object that holds the latents of shard ``index``."""
    return f"{IMAGES}/latent/c/{index}/0"


def zarr_metadata_paths() -> tuple[str, ...]:
    """The three Zarr metadata documents: the group's, the images', the latents'."""
    return (f"{IMAGES}/zarr.json", f"{IMAGES}/image/zarr.json", f"{IMAGES}/latent/zarr.json")


def shard_manifest_path(index: int) -> str:
    """The manifest of shard ``index``."""
    return f"shards/{index:05d}.json"


def level_name(level: float) -> str:
    """An association level as folders name it: the shortest text that reads back as the same number (1.0, 0.0526)."""
    return repr(float(level))


def subjects_path(shard: int, split: str) -> str:
    """The subjects of one shard and split."""
    return f"subjects/split={split}/{_part(shard)}"


def random_effects_path(level: float, shard: int, split: str) -> str:
    """The random effects of one association level, shard and split."""
    return f"random_effects/association={level_name(level)}/split={split}/{_part(shard)}"


def observations_path(level: float, shard: int, split: str) -> str:
    """The observations of one association level, shard and split."""
    return f"observations/association={level_name(level)}/split={split}/{_part(shard)}"


def shard_files(shard: Shard, levels: Iterable[float]) -> set[str]:
    """Paths of all data files of a shard: every file its manifest names."""
    paths = {image_shard_path(shard.index), latent_shard_path(shard.index)}
    for part in shard.splits:
        paths.add(subjects_path(shard.index, part.split))
        for level in levels:
            paths.add(random_effects_path(level, shard.index, part.split))
            paths.add(observations_path(level, shard.index, part.split))
    return paths


def eta_columns(count: int) -> tuple[str, ...]:
    """Names of the random effect columns: eta_1 … eta_count."""
    return tuple(f"eta_{k}" for k in range(1, count + 1))


def subjects_schema(n_eta: int, *, licence: str = "") -> pa.Schema:
    """One row per subject; ``n_eta`` random effects are linked to the image."""
    return _schema(
        "subjects",
        [
            _field("id", pa.int64(), "1", "subject identity: equal to image_index"),
            _field("image_index", pa.int64(), "1", "index of the subject's image and latent in images.zarr"),
            _field("split", pa.string(), "1", "train, validation or test"),
            _field("shard", pa.int32(), "1", "shard that holds the subject"),
            _field("seed", pa.int64(), "1", "the subject's own seed, given to the image model"),
            *(_field(name, pa.float64(), "1", "random effect linked to the image") for name in eta_columns(n_eta)),
        ],
        licence,
    )


def random_effects_schema(
    n_eta: int, parameters: Iterable[str], units: Mapping[str, str] = DEFAULT_UNITS, *, licence: str = ""
) -> pa.Schema:
    """One row per subject at one association level: the random effects used and the parameters they give.

    Args:
        n_eta: number of random effects.
        parameters: names of the individual parameters.
        units: may name a parameter's unit; "1" otherwise.
        licence: SPDX identifier, repeated in the metadata of each file; left out where it is empty.
    """
    return _schema(
        "random_effects",
        [
            _field("id", pa.int64(), "1", "subject identity"),
            *(_field(name, pa.float64(), "1", "random effect behind the outcomes") for name in eta_columns(n_eta)),
            *(_field(name, pa.float64(), units.get(name, "1"), "individual parameter") for name in parameters),
        ],
        licence,
    )


def observations_schema(
    units: Mapping[str, str] = DEFAULT_UNITS, *, licence: str = "", infusions: bool = False
) -> pa.Schema:
    """Long format, one row per dose and per observation, sorted by id and time, a dose before what is seen then."""
    amount, time = units.get("amt", "1"), units.get("time", "1")
    rate = _field("rate", pa.float64(), f"{amount}/{time}", "rate of an infusion, 0 for a dose given at once")
    return _schema(
        "observations",
        [
            _field("id", pa.int64(), "1", "subject identity"),
            _field("time", pa.float64(), units.get("time", "1"), "time since the start"),
            _field("evid", pa.int8(), "1", "0 observation, 1 dose"),
            _field("amt", pa.float64(), units.get("amt", "1"), "amount of the dose, 0 on observation rows"),
            *([rate] if infusions else []),
            _field("cmt", pa.int8(), "1", "compartment dosed or observed, from 1"),
            _field("dv", pa.float32(), units.get("dv", "1"), "observed outcome, null on dose rows and missed visits"),
            _field("mdv", pa.int8(), "1", "1 where dv is missing, else 0"),
            _field("association", pa.float64(), "1", "share of the random effects' variance the image explains"),
            _field("split", pa.string(), "1", "train, validation or test"),
        ],
        licence,
    )


def unit_of(field: pa.Field) -> str:
    """The unit of a column of one of these schemas, "1" if it has none."""
    return str(field.metadata[b"unit"].decode())


def describe(field: pa.Field) -> str:
    """What a column of one of these schemas holds."""
    return str(field.metadata[b"description"].decode())


def _part(shard: int) -> str:
    return f"part-{shard:05d}.parquet"


def _field(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
    return pa.field(name, kind, nullable=name == "dv", metadata={"unit": unit, "description": description})


def _schema(table: str, fields: list[pa.Field], licence: str) -> pa.Schema:
    units = {field.name: unit_of(field) for field in fields}
    metadata = {"table": table, "layout_version": str(LAYOUT_VERSION), "units": json.dumps(units, sort_keys=True)}
    if licence:
        metadata["licence"] = licence
    return pa.schema(fields, metadata=metadata)
