"""croissant.json: the data set described in Croissant 1.0 JSON-LD (http://mlcommons.org/croissant/1.0)."""

import json
from typing import Any

import pyarrow as pa

from image_longitudinal.storage.dataset import layout
from image_longitudinal.storage.dataset.reader import Dataset

PAPER_URL = "https://arxiv.org/abs/2410.16177"


def render_croissant(dataset: Dataset) -> str:
    """The text of croissant.json: a file set of the images, and a file set and a record set for each table."""
    manifest = dataset.manifest
    content = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest.name,
        "description": f"{manifest.n_subjects} synthetic medical images paired with longitudinal outcomes whose "
        f"association with the image is set by design ({', '.join(map(layout.level_name, manifest.levels))}).",
        "license": f"https://spdx.org/licenses/{manifest.licence}.html",
        "url": PAPER_URL,
        "citeAs": manifest.citation.strip(),
        "creator": {"@type": "sc:Organization", "name": "image-longitudinal"},
        **({"datePublished": manifest.date} if manifest.date else {}),
        "version": f"{manifest.layout_version}.0.0",
        "isLiveDataset": False,
        "distribution": [
            _file_set("images", "application/octet-stream", f"{layout.IMAGES}/**", "Zarr v3 group: image and latent"),
            *(
                _file_set(t, "application/x-parquet", f"{t}/**/*.parquet", layout.TABLE_DESCRIPTIONS[t])
                for t in layout.TABLES
            ),
        ],
        "recordSet": [_record_set(table, dataset.schema(table)) for table in layout.TABLES],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _file_set(name: str, encoding: str, pattern: str, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{name}-files",
        "name": f"{name}-files",
        "description": description,
        "encodingFormat": encoding,
        "includes": pattern,
    }


def _record_set(table: str, schema: pa.Schema) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": table,
        "name": table,
        "description": layout.TABLE_DESCRIPTIONS[table],
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{table}/{field.name}",
                "name": field.name,
                "description": f"{layout.description_of(field)} (unit: {layout.unit_of(field)})",
                "dataType": _croissant_type(field.type),
                "source": {"fileSet": {"@id": f"{table}-files"}, "extract": {"column": field.name}},
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
