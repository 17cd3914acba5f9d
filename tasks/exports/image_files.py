"""One image file per subject, in folders of splits and shards, and ``metadata.csv`` beside them.

``imagefolder``: PNG, in the form that the Hugging Face library of that name and most training scripts read, with a
Croissant description. ``nifti``: compressed NIfTI, for tools of medical imaging.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import naming_missing_extra
from image_longitudinal.core.png import encode_png
from image_longitudinal.storage.dataset.card import croissant_head
from image_longitudinal.storage.io.root import FileRecord, Root
from image_longitudinal.tasks.exports.export import Export, Home, Part, by_part
from image_longitudinal.tasks.exports.rows import as_text, flat_columns

AT_ONCE = 256  # images in memory
METADATA = "metadata.csv"


def encode_nifti(image: NDArray[np.uint8]) -> bytes:
    """A grey image (H, W) as one slice of a compressed NIfTI volume, (W, H, 1): x to the right, y downwards.

    The voxel size is 1 in no unit: a synthetic image has no physical scale.
    """
    with naming_missing_extra():
        import nibabel
    volume = nibabel.Nifti1Image(np.ascontiguousarray(image.T[:, :, None]), np.diag([1.0, -1.0, 1.0, 1.0]))
    return gzip.compress(volume.to_bytes(), mtime=0)  # no date: the same bytes each time


def write_images(
    export: Export, part: Part, root: Root, path_of: Callable[[Part, int], str],
    encode: Callable[[NDArray[np.uint8]], bytes],
) -> Iterator[FileRecord]:  # fmt: skip
    """One file for each subject of a part."""
    for start in range(part.start, part.stop, AT_ONCE):
        images = export.dataset.images[start : min(start + AT_ONCE, part.stop)]
        for subject, image in enumerate(images, start):
            yield root.write_bytes(path_of(part, subject), encode(image))


def subject_path(suffix: str) -> Callable[[Part, int], str]:
    """Where a subject's file is: train/00000/000000017.png."""
    return lambda part, subject: f"{part.split}/{part.shard:05d}/{subject:09d}{suffix}"


def _metadata(export: Export, split: str, suffix: str) -> Iterator[bytes]:
    """metadata.csv of one split, a shard at a time."""
    header = False
    for part in export.parts:
        if part.split == split:
            columns = flat_columns(export, part)
            path_of = subject_path(suffix)
            files = [path_of(part, subject).partition("/")[2] for subject in range(part.start, part.stop)]
            columns = {"file_name": np.array(files), **{k: v for k, v in columns.items() if k != "split"}}
            if not header:
                yield (",".join(columns) + "\n").encode()
                header = True
            yield as_text(columns).encode()


def _home(name: str, suffix: str, encode: Callable[[NDArray[np.uint8]], bytes], then: str) -> Home:
    path_of = subject_path(suffix)

    def write_part(export: Export, part: Part, root: Root) -> Iterator[FileRecord]:
        return write_images(export, part, root, path_of, encode)

    def close(export: Export, root: Root) -> Iterator[FileRecord]:
        tables = [root.write(f"{split}/{METADATA}", _metadata(export, split, suffix)) for split in export.splits]
        yield from tables
        if suffix == ".png":
            yield root.write_bytes("croissant.json", render_croissant(export, tables).encode())

    return Home(name, by_part(write_part), close, then)


def render_croissant(export: Export, tables: list[FileRecord]) -> str:
    """Croissant 1.0: a record set of images with the number of their subject, and one of each split's numbers."""
    n = sum(export.dataset.manifest.splits[split] for split in export.splits)
    images = {
        "@type": "cr:FileSet", "@id": "image-files", "name": "image-files", "description": "One PNG for each subject",
        "encodingFormat": "image/png", "includes": "*/*/*.png",
    }  # fmt: skip
    of_tables = [
        {"@type": "cr:FileObject", "@id": file.path, "name": file.path, "contentUrl": file.path,
         "encodingFormat": "text/csv", "sha256": file.sha256, "contentSize": f"{file.bytes} B"}
        for file in tables
    ]  # fmt: skip
    shown = {
        "@type": "cr:RecordSet", "@id": "images", "name": "images", "description": "The images, and whose they are",
        "field": [
            {"@type": "cr:Field", "@id": "images/image", "name": "image", "dataType": "sc:ImageObject",
             "source": {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": "content"}}},
            {"@type": "cr:Field", "@id": "images/id", "name": "id", "dataType": "sc:Integer",
             "source": {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": "filename"},
                        "transform": {"regex": r"(\d+)\.png"}}},
        ],
    }  # fmt: skip
    first = next(part for part in export.parts)
    kinds = {name: values.dtype.kind for name, values in flat_columns(export, first).items() if name != "split"}
    sets = [shown]
    for file in tables:
        name = file.path.partition("/")[0]
        fields = [
            {"@type": "cr:Field", "@id": f"{name}/{column}", "name": column,
             "dataType": "sc:Integer" if kind in "iu" else "sc:Float",
             "source": {"fileObject": {"@id": file.path}, "extract": {"column": column}}}
            for column, kind in kinds.items()
        ]  # fmt: skip
        described = f"Random effects and outcomes of the {name} subjects"
        sets.append({"@type": "cr:RecordSet", "@id": name, "name": name, "description": described, "field": fields})
    head = croissant_head(export.dataset.manifest, n, export.levels)
    return json.dumps({**head, "distribution": [images, *of_tables], "recordSet": sets}, indent=1) + "\n"


IMAGE_FOLDER = _home("imagefolder", ".png", encode_png, 'datasets.load_dataset("imagefolder", data_dir="{}")')
NIFTI = _home("nifti", ".nii.gz", encode_nifti, 'nibabel.load("{}/SPLIT/00000/000000000.nii.gz")')
