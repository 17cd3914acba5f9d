"""The data card: README.md for people and the Hugging Face hub, with croissant.json for machines beside it."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from image_longitudinal.core.escapes import for_markdown
from image_longitudinal.core.plan import shard_ranges
from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.card_quality import quality_section
from image_longitudinal.storage.dataset.manifest import RootManifest
from image_longitudinal.storage.dataset.reader import Dataset
from image_longitudinal.storage.dataset.study_columns import TRUTH_DESCRIPTIONS
from image_longitudinal.storage.io.root import FileRecord, Root

PAPER_URL = "https://arxiv.org/abs/2410.16177"
HUB_DEFAULT = "observations"  # the table that Hugging Face loads and shows unless another is named
CITATION = """@article{image_longitudinal_2024,
  title  = {A Framework for Evaluating Predictive Models Using Synthetic Image Covariates and Longitudinal Data},
  year   = {2024},
  eprint = {2410.16177},
  archivePrefix = {arXiv},
  url    = {https://arxiv.org/abs/2410.16177}
}"""

_DESCRIPTIONS = {**layout.TABLE_DESCRIPTIONS, **TRUTH_DESCRIPTIONS}
_QUERY = """SELECT association, time, avg(dv) AS mean
FROM 'observations/**/*.parquet'
WHERE evid = 0 GROUP BY ALL ORDER BY ALL"""


def write_card(root: Root, manifest: RootManifest, examples: bytes | None = None) -> tuple[FileRecord, ...]:
    """Write README.md and croissant.json from the manifest, before it is published.

    Their content does not depend on the manifest's ``files``, where their records belong, nor on the date.

    Args:
        root: where the data set is.
        manifest: of the data set, of the current layout version.
        examples: a picture (PNG) of some images and their outcomes, which the card shows.
    """
    dataset = Dataset(root, manifest)
    picture = () if examples is None else (root.write_bytes(layout.CARD_PICTURE, examples),)
    return (
        root.write_bytes(layout.CARD, render_card(dataset, picture=bool(picture)).encode()),
        root.write_bytes(layout.CROISSANT, render_croissant(dataset).encode()),
        *picture,
    )


def render_card(dataset: Dataset, *, picture: bool = False) -> str:
    """README.md: front matter for the Hugging Face hub, what the data set is, its columns and how to read them."""
    manifest = dataset.manifest
    image = manifest.image
    levels = ", ".join(map(layout.level_name, manifest.levels))
    level = layout.level_name(manifest.levels[0])
    split = manifest.present_splits[0]
    tables = "\n\n".join(_table_section(dataset, table) for table in manifest.tables)
    counts = "\n".join(f"| {name} | {manifest.splits[name]:,} |" for name in manifest.present_splits)
    unit = manifest.units.get("time", "1")
    shown = f"![Some images above the outcomes they are paired with]({layout.CARD_PICTURE})" if picture else ""
    lineage = "".join(f"\n{line}\n" for line in (_part_of(manifest), _derived_from(manifest), shown) if line)
    effects = ", ".join(f"`eta_{k}` ({for_markdown(name)})" for k, name in enumerate(manifest.random_effects, 1))
    made_by = [for_markdown(text) for text in (image.backend, image.model, image.version)]
    return f"""---
{front_matter(manifest, manifest.n_subjects, _configurations(manifest))}
---

# {manifest.name}

Synthetic medical images paired with longitudinal outcomes. One latent vector makes a subject's image and, through the
random effects {effects}, the subject's outcomes. The strength of the association is set by design: at association ρ²,
the latent vector behind the image explains exactly the share ρ² of the variance of the random effects. No record
describes a real person.
{lineage}
| | |
|---|---|
| subjects | {manifest.n_subjects:,} |
| images | {image.height} x {image.width}, grey, 8 bit, made by `{made_by[0]}` ({made_by[1]} {made_by[2]}) |
| latent vector | {image.latent_dim} dimensions, standard normal |
| association levels | {levels} |
| times | {len(manifest.times)}, from {min(manifest.times):g} to {max(manifest.times):g} {"" if unit == "1" else unit} |
{_visits(manifest)}{_study(manifest)}| shards | {manifest.plan.n_shards} of {manifest.shard_size:,} subjects |
| licence | {for_markdown(manifest.licence)} |

| split | subjects |
|---|---|
{counts}

Image i, latent i and the subject with id i are the same patient.
{quality_section(manifest)}
## Files

`images.zarr` is a Zarr v3 group with `image` (subject, y, x) uint8 and `latent` (subject, latent) float32, one image
per chunk. The tables are Parquet, one file per shard, split and association level (`rho2-...`). Every file holds its
split and level as columns, so any folder can be read as one table. Units and descriptions are in the metadata of each
column. `shards/` lists the files of each shard with their SHA-256; `dataset.json` describes the whole data set.

{tables}

## Reading it

Run these in this folder.

Zarr:

```python
import zarr

images = zarr.open_group("images.zarr", mode="r")
first, latents = images["image"][0], images["latent"][:10]
```

pyarrow:

```python
import pyarrow.dataset as ds

observations = ds.dataset("observations/rho2-{level}").to_table(columns=["id", "time", "dv"])
```

pandas:

```python
import pandas as pd

subjects = pd.read_parquet("subjects/{split}")
```

polars:

```python
import polars as pl

mean = pl.scan_parquet("observations").group_by("association", "time").agg(pl.col("dv").mean()).collect()
```

DuckDB:

```sql
{_QUERY}
```

## How it was made

Seed {manifest.seed}; configuration `{manifest.config_digest[:12]}` (in `dataset.json`); image model digest
`{image.digest[:12]}`; data set identity `{manifest.identity[:12]}`. A subject is a pure function of the seed, its id,
the configuration and the models, so the same command gives the same files.

## Citation

The method: [arXiv 2410.16177]({PAPER_URL}).

```bibtex
{manifest.citation.strip()}
```
"""


def _part_of(manifest: RootManifest) -> str:
    if (whole := manifest.part_of) is None:
        return ""
    levels = ", ".join(map(layout.level_name, whole.levels))
    return f"""**A part** of the data set `{whole.identity[:12]}`, which has {whole.n_subjects:,} subjects and the
association levels {levels}. This part holds subjects of its shards {shard_ranges(whole.shards)}.
Ids and image indices are those of the whole; Zarr returns black images for the subjects outside the part."""


def _derived_from(manifest: RootManifest) -> str:
    if (origin := manifest.derived_from) is None:
        return ""
    reused = " and ".join(f"the {name} files of {count} shards" for name, count in origin.reused.items())
    return f"**Derived** from the data set {origin.name} `{origin.identity[:12]}`: it shares {reused}."


def front_matter(manifest: RootManifest, n_subjects: int, configurations: Sequence[str]) -> str:
    """What the Hugging Face hub reads at the top of README.md; ``configurations`` are lines of YAML below configs."""
    size = next(text for limit, text in _SIZES if n_subjects < limit)
    lines = [
        f"license: {manifest.licence.lower()}",
        f"pretty_name: {json.dumps(manifest.name)}",
        "tags: [synthetic, medical, oct, longitudinal, pharmacometrics, nonlinear-mixed-effects]",
        f"size_categories: [{json.dumps(size)}]",
        "configs:",
        *configurations,
    ]
    return "\n".join(lines)


def _configurations(manifest: RootManifest) -> list[str]:
    lines = []
    for table in layout.TABLES:
        lines += [f"  - config_name: {table}", *["    default: true"] * (table == HUB_DEFAULT), "    data_files:"]
        for split in manifest.present_splits:
            folder = table if table == "subjects" else f"{table}/*"
            lines.append(f'      - {{split: {split}, path: "{folder}/{split}/*.parquet"}}')
    return lines


def _table_section(dataset: Dataset, table: str) -> str:
    rows = "\n".join(
        f"| `{for_markdown(field.name)}` | {field.type} | {for_markdown(layout.unit_of(field))} "
        f"| {layout.description_of(field)} |"
        for field in dataset.schema(table)
    )
    return f"### {table}\n\n{_DESCRIPTIONS[table]}.\n\n| column | type | unit | |\n|---|---|---|---|\n{rows}"


_SIZES = [
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (float("inf"), "n>10M"),
]


def _visits(manifest: RootManifest) -> str:
    """A row on irregular visits, empty if all subjects keep the planned times."""
    names = {
        "jitter": "up to {:g} earlier or later",
        "missed": "{:.3g} missed",
        "dropout": "{:.3g} of subjects drop out",
    }
    visits = manifest.config.get("outcomes", {})
    parts = [text.format(visits[name]) for name, text in names.items() if visits.get(name)]
    return f"| visits | {', '.join(parts)}; a missed one keeps its row, with MDV 1 and no DV |\n" if parts else ""


def _study(manifest: RootManifest) -> str:
    """Rows on a study design, empty without one."""
    if (study := manifest.study) is None:
        return ""
    parts = {
        "arms": [f"{arm.name} ({100 * arm.share:.3g} %)" for arm in study.arms],
        "covariates": list(study.columns.covariates),
        "sites": [f"{site.name} ({100 * site.share:.3g} %)" for site in study.sites],
    }
    rows = [f"| {name} | {', '.join(for_markdown(one) for one in named)} |\n" for name, named in parts.items() if named]
    apart = "| `truth/` | what only a scorer may see: do not train on it |\n" if study.arms else ""
    return "".join(rows) + apart


def render_croissant(dataset: Dataset) -> str:
    """The text of croissant.json (Croissant 1.0 JSON-LD): file sets of the images and tables, and record sets."""
    manifest = dataset.manifest
    content = {
        **croissant_head(manifest, manifest.n_subjects, manifest.levels),
        "distribution": [
            _file_set("images", "application/octet-stream", f"{layout.IMAGES}/**", "Zarr v3 group: image and latent"),
            *(_file_set(t, "application/x-parquet", f"{t}/**/*.parquet", _DESCRIPTIONS[t]) for t in manifest.tables),
        ],
        "recordSet": [_record_set(table, dataset.schema(table)) for table in manifest.tables],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def croissant_head(manifest: RootManifest, n_subjects: int, levels: Sequence[float]) -> dict[str, Any]:
    """What a Croissant description says of the data set as a whole."""
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest.name,
        "description": f"{n_subjects} synthetic medical images paired with longitudinal outcomes whose "
        f"association with the image is set by design ({', '.join(map(layout.level_name, levels))}).",
        "license": f"https://spdx.org/licenses/{manifest.licence}.html",
        "url": PAPER_URL,
        "citeAs": manifest.citation.strip(),
        "creator": {"@type": "sc:Organization", "name": "image-longitudinal"},
        **({"datePublished": manifest.date} if manifest.date else {}),
        "version": f"{manifest.layout_version}.0.0",
        "isLiveDataset": False,
    }


def _file_set(table: str, encoding: str, pattern: str, description: str) -> dict[str, Any]:
    name = _croissant_name(table)
    return {
        "@type": "cr:FileSet",
        "@id": f"{name}-files",
        "name": f"{name}-files",
        "description": description,
        "encodingFormat": encoding,
        "includes": pattern,
    }


def _croissant_name(table: str) -> str:
    return table.replace("/", "-")


def _record_set(table: str, schema: pa.Schema) -> dict[str, Any]:
    name = _croissant_name(table)
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": _DESCRIPTIONS[table],
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{field.name}",
                "name": field.name,
                "description": f"{layout.description_of(field)} (unit: {layout.unit_of(field)})",
                "dataType": _croissant_type(field.type),
                "source": {"fileSet": {"@id": f"{name}-files"}, "extract": {"column": field.name}},
            }
            for field in schema
        ],
    }


def _croissant_type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"


_TERMS = (
    "citeAs column dataBiases dataCollection equivalentProperty extract field fileObject fileProperty fileSet format "
    "includes isLiveDataset jsonPath key md5 parentField path personalSensitiveInformation recordSet references regex "
    "repeated replace samplingRate separator source subField transform"
)
_CONTEXT: dict[str, Any] = {  # the context that the Croissant 1.0 specification requires
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS.split()},
}
