"""Hugging Face: Parquet with images that the hub's viewer shows, one row per subject, splits, features and a card.

The features are in the metadata of each file, as ``datasets`` itself writes them, so that loading and streaming decode
images without being told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_longitudinal.core.escapes import for_markdown
from image_longitudinal.core.png import encode_png
from image_longitudinal.storage.dataset.card import front_matter
from image_longitudinal.storage.dataset.layout import level_name
from image_longitudinal.storage.io.root import FileRecord, Root
from image_longitudinal.tasks.exports.export import Export, Home, Part, by_part
from image_longitudinal.tasks.exports.rows import read_rows

CONFIGURATION = "subjects"
ROW_GROUP = 100  # subjects: what the viewer reads for a page, a few MB of images
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def _write_part(export: Export, part: Part, root: Root) -> Iterator[FileRecord]:
    rows, dataset = read_rows(export, part), export.dataset
    pictures = [
        {"bytes": encode_png(image), "path": f"{number:09d}.png"}
        for number, image in zip(rows.ids.tolist(), dataset.images[part.start : part.stop], strict=True)
    ]
    columns: dict[str, pa.Array] = {"id": pa.array(rows.ids), "image": pa.array(pictures, IMAGE)}
    columns |= {name: pa.array(values) for name, values in rows.design.items()}
    columns["linked_eta"] = _lists(rows.linked_eta)
    if not export.is_irregular:
        columns["time"] = _lists(np.tile(np.array(dataset.times), (len(rows.ids), 1)))
    for own in rows.levels:
        columns[f"used_eta_{own.name}"] = _lists(own.used_eta)
        if export.is_irregular:
            columns[f"time_{own.name}"] = _lists(own.times)
        columns[f"dv_{own.name}"] = _lists(own.outcomes.astype(np.float32))
    table = pa.table(columns)
    features = {field.name: _feature(field.type) for field in table.schema}
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(described), sink, compression="zstd", row_group_size=ROW_GROUP,
        use_dictionary=[name for name in table.column_names if name.startswith("time")], write_page_checksum=True,
    )  # fmt: skip
    path = f"data/{part.split}-{part.shard:05d}.parquet"
    yield root.write_bytes(path, memoryview(sink.getvalue()), rows=len(rows.ids))


def _lists(values: NDArray[Any]) -> pa.Array:
    """Rows (n, k) as lists; NaN, which only missed visits are, as null."""
    flat = values.ravel()
    offsets = np.arange(0, flat.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(flat, from_pandas=True))


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """A column as ``datasets`` describes it."""
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"_type": "Sequence", "feature": _feature(kind.value_type)}
    return {"_type": "Value", "dtype": {"double": "float64", "float": "float32"}.get(str(kind), str(kind))}


def _write_card(export: Export, root: Root) -> Iterator[FileRecord]:
    yield root.write_bytes("README.md", render_card(export).encode(), rows=None)


def render_card(export: Export) -> str:
    """README.md, whose front matter names the files of each split."""
    manifest = export.dataset.manifest
    n = sum(manifest.splits[split] for split in export.splits)
    files = [f'      - {{split: {split}, path: "data/{split}-*.parquet"}}' for split in export.splits]
    configuration = [f"  - config_name: {CONFIGURATION}", "    default: true", "    data_files:", *files]
    effects = ", ".join(for_markdown(name) for name in manifest.random_effects)
    names = [f"rho2-{level_name(level)}" for level in export.levels]
    times = "visit times" if not export.is_irregular else "visit times, a column for each level"
    return f"""---
{front_matter(manifest, n, configuration)}
---

# {manifest.name}

{n:,} synthetic grey images ({manifest.image.height} x {manifest.image.width}) paired with longitudinal outcomes. One
latent vector makes a subject's image and, through random effects ({effects}), the subject's outcomes; at association ρ²
the image explains exactly the share ρ² of their variance. No record describes a real person.

```python
from datasets import load_dataset

subjects = load_dataset("OWNER/NAME", split="{export.splits[0]}")
subjects[0]["image"], subjects[0]["dv_{names[0]}"]
```

| column | |
|---|---|
| `id` | subject, as in the data set that this is an export of (identity `{manifest.identity[:12]}`) |
| `image` | 8-bit grey PNG |
| `linked_eta` | random effects linked to the image, the same at every level; outcomes were made from others |
| `used_eta_{names[0]}`, ... | random effects that the outcomes of a level were made from: predict these |
| `time` | {times} |
| `dv_{names[0]}`, ... | outcomes at these times; null at a missed visit |

Association levels: {", ".join(names)}. Licence: {for_markdown(manifest.licence)}.

```bibtex
{manifest.citation.strip()}
```
"""


HOME = Home(
    "huggingface", by_part(_write_part), _write_card,
    'datasets.load_dataset("{}"); upload it with: hf upload OWNER/NAME {} --repo-type dataset',
)  # fmt: skip
