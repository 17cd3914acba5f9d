"""Layout version 2 of a data set: the name of every file, and the columns and units of every table.

No folder is named ``key=value``, since tools disagree on whether to make a column of that; each file holds its own
``association`` and ``split`` columns instead. The folder ``truth/`` is reserved for what only a scorer may see.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import pyarrow as pa

from image_longitudinal.core.plan import Shard
from image_longitudinal.storage.dataset.study_columns import NO_STUDY, PROPENSITY, TRUTH, StudyColumns, column

LAYOUT_VERSION: Final = 2

ROOT_MANIFEST = "dataset.json"  # written last: its presence is what "published" means
RUN_FILE = ".run.json"  # written first: which data set this folder belongs to
LEASE = ".run.lock"  # exists while a run writes, or after one was killed; never part of the data set
HUB_FILE = ".gitattributes"  # the Hugging Face hub adds it to every repository
CARD = "README.md"
CARD_PICTURE = "examples.png"
CROISSANT = "croissant.json"
IMAGES, SHARDS = "images.zarr", "shards"

TABLES = ("subjects", "random_effects", "observations")
TABLE_DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "subjects": "One row per subject: split, seed and the random effects linked to the image",
        "random_effects": "Random effects used for the outcomes, and the individual parameters",
        "observations": "Doses and outcomes in long format, sorted by id and time",
    }
)

DEFAULT_UNITS: Mapping[str, str] = MappingProxyType({"time": "h", "amt": "1", "dv": "1"})
"""Units of time, dose and outcome. "1" means no unit: in the original model amounts are relative to the dose, 1."""


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
    return f"{SHARDS}/{index:05d}.json"


def level_name(level: float) -> str:
    """An association level as text: the shortest that reads back as the same number (1.0, 0.0526)."""
    return repr(float(level))


def table_path(table: str, shard: int, split: str, level: float | None = None) -> str:
    """The rows of one shard and split of a table; ``level`` is the association level, None if it has none."""
    folder = table if level is None else f"{table}/rho2-{level_name(level)}"
    return f"{folder}/{split}/{shard:05d}.parquet"


def has_levels(table: str) -> bool:
    """Whether a table has a file for each association level."""
    return table not in ("subjects", PROPENSITY)


def shard_files(shard: Shard, levels: Iterable[float], tables: Iterable[str] = TABLES) -> set[str]:
    """Paths of all data files of a shard: every file its manifest names."""
    paths, every = {image_shard_path(shard.index), latent_shard_path(shard.index)}, tuple(levels)
    for part in shard.splits:
        for table in tables:
            chosen = every if has_levels(table) else (None,)
            paths |= {table_path(table, shard.index, part.split, level) for level in chosen}
    return paths


def _field(name: str, kind: pa.DataType, unit: str, description: str) -> pa.Field:
    return column(name, kind, unit, description, nullable=name == "dv")


def eta_columns(count: int) -> tuple[str, ...]:
    """Names of the random effect columns: eta_1, …, eta_count."""
    return tuple(f"eta_{k}" for k in range(1, count + 1))


def table_columns(
    table: str,
    n_eta: int,
    parameters: Iterable[str] = (),
    units: Mapping[str, str] = DEFAULT_UNITS,
    *,
    licence: str = "",
    infusions: bool = False,
    study: StudyColumns = NO_STUDY,
    times: Sequence[float] = (),
) -> pa.Schema:
    """The columns of one of :data:`TABLES`, or of a table in ``truth/``. Observations are sorted by id and time, doses
    before observations.

    Args:
        table: its name.
        n_eta: number of random effects.
        parameters: names of the individual parameters.
        units: of ``time``, ``amt`` and ``dv``; may name a parameter's unit; "1" otherwise.
        licence: SPDX identifier, repeated in the metadata of each file unless empty.
        infusions: whether observations have the column ``rate``.
        study: what a study design adds.
        times: observation times, which columns of potential outcomes are for.
    """
    time, amount, outcome = (units.get(name, "1") for name in ("time", "amt", "dv"))
    identity = _field("id", pa.int64(), "1", "subject identity")
    split = _field("split", pa.string(), "1", "train, validation or test")
    variance = "share of the random effects' variance explained by the image"
    association = _field("association", pa.float64(), "1", variance)
    if table == "subjects":
        fields = [
            _field("id", pa.int64(), "1", "subject identity: equal to image_index"),
            _field("image_index", pa.int64(), "1", "index of the subject's image and latent in images.zarr"),
            split,
            _field("shard", pa.int32(), "1", "shard that holds the subject"),
            _field("seed", pa.int64(), "1", "the subject's own seed, given to the image model"),
            *(_field(name, pa.float64(), "1", "random effect linked to the image") for name in eta_columns(n_eta)),
            *study.of_subjects(),
        ]
    elif table == "random_effects":
        fields = [
            identity,
            association,
            split,
            *(_field(name, pa.float64(), "1", "random effect used for the outcomes") for name in eta_columns(n_eta)),
            *(_field(name, pa.float64(), units.get(name, "1"), "individual parameter") for name in parameters),
        ]
    elif table in TRUTH:
        of_level = [association] if has_levels(table) else []
        fields = [identity, *study.of_truth(table, times, outcome), *of_level, split]
    else:
        rate = _field("rate", pa.float64(), f"{amount}/{time}", "rate of an infusion, 0 for a bolus")
        fields = [
            identity,
            _field("time", pa.float64(), time, "time since the start"),
            _field(
                "evid", pa.int8(), "1", "0 observation, 1 dose" + (", 2 a dose of other arms" if study.arms else "")
            ),
            _field("amt", pa.float64(), amount, "amount of the dose, 0 on observation rows"),
            *([rate] if infusions else []),
            _field("cmt", pa.int8(), "1", "compartment dosed or observed, from 1"),
            _field("dv", pa.float32(), outcome, "observed outcome, null on dose rows and missed visits"),
            _field("mdv", pa.int8(), "1", "1 if dv is missing, else 0"),
            *study.of_observations(),
            association,
            split,
        ]
    of_columns = json.dumps({field.name: unit_of(field) for field in fields}, sort_keys=True)
    metadata = {"table": table, "layout_version": str(LAYOUT_VERSION), "units": of_columns}
    return pa.schema(fields, metadata=metadata | ({"licence": licence} if licence else {}))


def unit_of(field: pa.Field) -> str:
    """The unit of a column of one of these schemas, "1" if it has none."""
    return str(field.metadata[b"unit"].decode())


def description_of(field: pa.Field) -> str:
    """The description of a column of one of these schemas."""
    return str(field.metadata[b"description"].decode())


def path_in_version_1(path: str) -> str:
    """Where layout version 1 keeps the file that version 2 keeps at ``path``.

    Version 1, which is still read, named its folders ``split=train`` and ``association=0.5`` and its files
    ``part-00000.parquet``. Arrays and manifests are those of version 2.
    """
    if not path.startswith(tuple(f"{table}/" for table in TABLES)):
        return path
    table, *level, split, name = path.split("/")
    folders = [f"association={folder.removeprefix('rho2-')}" for folder in level]
    return "/".join([table, *folders, f"split={split}", f"part-{name}"])


def columns_in_version_1(table: str, schema: pa.Schema) -> pa.Schema:
    """The columns that version 1 has of a version 2 table: its random effects lack ``association`` and ``split``."""
    missing = ("association", "split") if table == "random_effects" else ()
    return pa.schema([field for field in schema if field.name not in missing], schema.metadata)
