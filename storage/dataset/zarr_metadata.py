"""The metadata of ``images.zarr`` against the manifest, before another reader (zarr-python) is told to believe it."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.json_input import parse_json
from image_longitudinal.storage.dataset.layout import IMAGES
from image_longitudinal.storage.dataset.sharded_array import ArraySpec
from image_longitudinal.storage.io.root import Root

CODECS = {"bytes", "blosc", "zstd", "crc32c"}  # of chunks; any other may be a package that the data names


def check_metadata(root: Root, specs: tuple[ArraySpec, ...], n: int) -> None:
    """Check every description of the arrays: their own documents, and their copies in the group's.

    Raises:
        StorageError: a document is missing or no JSON, or shape, type, chunks or codecs are not the data set's.
    """
    group = _read(root, f"{IMAGES}/zarr.json")
    copies = group.get("consolidated_metadata")
    copied = copies.get("metadata") if isinstance(copies, dict) else {}
    for spec in specs:
        path = f"{IMAGES}/{spec.name}/zarr.json"
        found = {path: _read(root, path)}
        if isinstance(copied, dict) and spec.name in copied:
            found[f"{IMAGES}/zarr.json"] = copied[spec.name]
        for where, document in found.items():
            for what, expected, got in _differences(document, spec, n):
                raise StorageError(
                    f"Zarr metadata has another {what} than the data set", where=root.join(where), expected=expected,
                    got=repr(got)[:100], do="verify the data set",
                )  # fmt: skip


def _differences(document: Any, spec: ArraySpec, n: int) -> Iterator[tuple[str, object, object]]:
    """What differs, the expected and the found value."""
    codecs = _at(document, "codecs")
    sharding = codecs[0] if isinstance(codecs, list) and len(codecs) == 1 else None
    inner = _at(sharding, "configuration", "codecs")
    names = [_at(codec, "name") for codec in inner] if isinstance(inner, list) else [None]
    pairs = [
        ("shape", [n, *spec.row], _at(document, "shape")),
        ("data type", np.dtype(spec.dtype).name, _at(document, "data_type")),
        ("shard shape", [spec.shard_rows, *spec.row], _at(document, "chunk_grid", "configuration", "chunk_shape")),
        ("codec", "sharding_indexed", _at(sharding, "name")),
        ("chunk shape", [spec.chunk_rows, *spec.row], _at(sharding, "configuration", "chunk_shape")),
    ]
    yield from (pair for pair in pairs if pair[1] != pair[2])
    if not all(isinstance(name, str) and name in CODECS for name in names):
        yield "codec of its chunks", ", ".join(sorted(CODECS)), names


def _at(document: Any, *keys: str) -> Any:
    """The value below these keys, None where there is none."""
    for key in keys:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def _read(root: Root, path: str) -> Mapping[str, Any]:
    try:
        document = parse_json(root.read_small(path))
    except ValueError as error:
        problem, do = "Zarr metadata is no JSON", "verify the data set"
        raise StorageError(problem, where=root.join(path), got=error, do=do) from error
    return document if isinstance(document, dict) else {}
