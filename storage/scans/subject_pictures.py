"""Pictures of the subjects of a table: which belong to whom, and their pixels.

Three forms: a folder of pictures, a Zarr array, and a published data set. The rule of names: a picture of a folder
without a list belongs to the subject whose id is its name without the ending, or the part of this before a ``_``,
``-``, ``.`` or blank (``17_left.png``; the longest part that is an id), or, if there is none, the name of a folder that
it lies in (``17/left.png``). A list, a CSV or Parquet file, names a picture and an id in each row. Ids that are numbers
in the table are compared as numbers: ``007`` is 7. All pictures of a subject count.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.storage.scans.pictures import FORMATS, MAX_PIXELS, picture_pixels

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
LISTS = frozenset({".csv", ".parquet"})
FILE_COLUMNS = ("image", "file", "filename", "file_name", "path")
ROW_COLUMNS = ("image_index", "index", "row")
NAMED = 5  # ids or files that an error names
_CUT = re.compile(r"[_\-. ]")


@dataclass(frozen=True, eq=False)
class SubjectPictures:
    """Pictures of n subjects: ``owner`` (N,) is the position of each picture's subject; ``names`` of the pictures (N,).

    ``pixels(i)`` reads picture i: (H, W), or (H, W, C), as :func:`.pictures.picture_pixels` gives it. ``content``
    decides the pixels, for cache keys: names, sizes and times of files, or the identity of a data set.
    """

    owner: NDArray[np.int64]
    names: Sequence[str]
    pixels: Callable[[int], NDArray[Any]]
    content: tuple[str, ...]


def find_subject_pictures(
    place: str, ids: Sequence[Any], *, listed: str | None = None, id_column: str | None = None, others: bool = False
) -> SubjectPictures:
    """The pictures of subjects, found but not read.

    Args:
        place: a folder of pictures; a Zarr array (N, H, W) or (N, V, H, W), or a group with the array ``image`` and,
            without a list, ``id`` (N,); or a published data set, whose ids are those of its tables.
        ids: of the subjects, numbers or texts, in the order of the table.
        listed: CSV or Parquet file that gives each picture's id. A folder has it if ``id_column`` alone is given.
        id_column: its column of ids; ``id`` by default. The picture is in a column ``image`` (``file``, ``filename``,
            ``file_name``, ``path``), relative to the folder, or for Zarr a row number in ``image_index`` (``index``,
            ``row``), from 0.
        others: pictures of other subjects are left out; else they are an error. A data set may always have them.

    Raises:
        StorageError: nothing that holds pictures, a list without these columns, subjects without a picture, pictures
            of no subject.
    """
    names = _Ids(ids)
    folder = Path(place)
    if "://" in place or (folder / "dataset.json").exists():
        return _of_dataset(place, names)
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        raise StorageError("no images there", where=place, expected="a folder or a Zarr array", got=got)
    if _is_zarr(folder):
        return _of_zarr(folder, names, listed, id_column, others)
    return _of_folder(folder, names, listed, id_column, others)


def ids_of_pictures(place: str, *, listed: str | None = None, id_column: str | None = None) -> list[Any]:
    """The ids that pictures have by themselves, for :func:`find_subject_pictures`: numbers if all of them are.

    Of a folder without a list, the names of files without their ending. Other arguments as there.
    """
    folder = Path(place)
    if "://" in place or (folder / "dataset.json").exists():
        return list(range(open_dataset(place).plan.n_subjects))
    listed = listed or (str(_only_list(folder)) if id_column and folder.is_dir() and not _is_zarr(folder) else None)
    if listed:
        table, own = _list(Path(listed), id_column)
        found = table[own].to_pylist()
    elif _is_zarr(folder):
        import zarr

        opened: Any = zarr.open(str(folder), mode="r")
        if hasattr(opened, "shape") or "id" not in opened:
            raise StorageError("whose image is which is not known", where=folder, expected="an array `id`")
        found = np.asarray(opened["id"][:]).tolist()
    else:
        found = [file.stem for file in _pictures(folder)]
    unique = list(dict.fromkeys(map(str, found)))
    return [int(one) for one in unique] if all(re.fullmatch(r"-?\d+", one) for one in unique) else unique


class _Ids:
    """The subjects' ids, and which one a text means."""

    def __init__(self, ids: Sequence[Any]) -> None:
        self.ids = list(ids)
        self.numeric = all(not isinstance(one, str) for one in self.ids)
        self.position = {self._canonical(str(one)): place for place, one in enumerate(self.ids)}

    def of(self, text: object) -> int | None:
        """Position of the subject with this id; None if there is none."""
        return self.position.get(self._canonical(str(text).strip()))

    def _canonical(self, text: str) -> str:
        if self.numeric:
            try:
                number = float(text)
            except ValueError:
                return text
            return str(int(number)) if number.is_integer() else str(number)
        return text

    def matched(
        self, place: str, found: Sequence[tuple[str, int | None]], others: bool
    ) -> tuple[NDArray[np.int64], list[int]]:
        """Subject of each picture that has one, and places of these pictures; refuses what does not fit together."""
        extra = [name for name, owner in found if owner is None]
        if extra and not others:
            what = f"{len(extra):,} of {len(found):,} images belong to no subject of the table"
            do = "remove them, name them by the subject's id, or give a list of ids (--image-list)"
            raise StorageError(what, where=place, got=_some(extra), do=do)
        kept = [place for place, (_, owner) in enumerate(found) if owner is not None]
        owner = np.array([found[place][1] for place in kept], np.int64)
        missing = sorted(set(range(len(self.ids))) - set(owner.tolist()))
        if missing:
            what = f"{len(missing):,} of {len(self.ids):,} subjects have no image"
            got = f"none of {_some([str(self.ids[one]) for one in missing])}"
            raise StorageError(what, where=place, got=got, do="add images, or leave these subjects out of the table")
        return owner, kept


def _of_dataset(place: str, names: _Ids) -> SubjectPictures:
    dataset = open_dataset(place)
    if not names.numeric or any(not 0 <= one < dataset.plan.n_subjects for one in names.ids):
        expected = f"ids from 0 to {dataset.plan.n_subjects - 1}"
        raise StorageError("ids that the data set does not have", where=place, expected=expected)
    rows = np.asarray(names.ids, np.int64)
    labels = [f"image of subject {one}" for one in rows]

    def pixels(i: int) -> NDArray[Any]:
        return np.asarray(dataset.images[int(rows[i]) : int(rows[i]) + 1][0])

    return SubjectPictures(np.arange(len(rows)), labels, pixels, (dataset.manifest.identity,))


def _of_zarr(
    folder: Path, names: _Ids, listed: str | None, id_column: str | None, others: bool
) -> SubjectPictures:  # fmt: skip
    import zarr

    opened: Any = zarr.open(str(folder), mode="r")
    group = not hasattr(opened, "shape")
    if group and "image" not in opened:
        got = ", ".join(sorted(opened)) or "nothing"
        raise StorageError("no array `image` in the Zarr group", where=folder, got=got)
    images = opened["image"] if group else opened
    if len(images.shape) not in (3, 4):
        expected = "(N, H, W) or (N, V, H, W)"
        raise StorageError("unusable array of images", where=folder, expected=expected, got=images.shape)
    if listed:
        table, own = _list(Path(listed), id_column)
        column = _column(table, ROW_COLUMNS, listed)
        rows = [_row(value, images.shape[0], listed) for value in table[column].to_pylist()]
        found = [(f"row {row}", names.of(value)) for row, value in zip(rows, table[own].to_pylist(), strict=True)]
    elif group and "id" in opened:
        values = np.asarray(opened["id"][:])
        if values.shape != images.shape[:1]:
            expected = f"({images.shape[0]},)"
            raise StorageError("`id` does not fit `image`", where=folder, expected=expected, got=values.shape)
        rows, found = list(range(len(values))), [(f"row {row}", names.of(one)) for row, one in enumerate(values)]
    else:
        do = "give a list with the columns id and image_index (--image-list)"
        raise StorageError("whose image is which is not known", where=folder, expected="an array `id`", do=do)
    owner, kept = names.matched(str(folder), found, others)
    views = images.shape[1] if len(images.shape) == 4 else 1
    places = [(rows[one], view) for one in kept for view in range(views)]

    def pixels(i: int) -> NDArray[Any]:
        row, view = places[i]
        return np.asarray(images[row, view] if len(images.shape) == 4 else images[row])

    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    content = tuple(f"{file.relative_to(folder)} {_stamp(file)}" for file in files)
    stamp = (_stamp(Path(listed)),) if listed else ()
    return SubjectPictures(np.repeat(owner, views), [f"row {row}" for row, _ in places], pixels, (*content, *stamp))


def _of_folder(
    folder: Path, names: _Ids, listed: str | None, id_column: str | None, others: bool
) -> SubjectPictures:  # fmt: skip
    if listed is None and id_column is not None:
        listed = str(_only_list(folder))
    if listed is not None:
        table, own = _list(Path(listed), id_column)
        column = _column(table, FILE_COLUMNS, listed)
        files = [folder / str(value) for value in table[column].to_pylist()]
        for file in files:
            if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
                raise StorageError("the list names a file that is not in the folder", where=listed, got=file)
        twice = [str(file) for file, count in Counter(files).items() if count > 1]
        if twice:
            raise StorageError("the list names an image twice", where=listed, got=_some(twice))
        found = [(file.name, names.of(value)) for file, value in zip(files, table[own].to_pylist(), strict=True)]
    else:
        files = _pictures(folder)
        if not files:
            raise StorageError("no images there", where=folder, expected="PNG, JPEG or TIFF files", got="none")
        found = [(str(file.relative_to(folder)), _by_name(file.relative_to(folder), names)) for file in files]
    owner, kept = names.matched(str(folder), found, others)
    chosen = [files[one] for one in kept]
    content = tuple(f"{file.relative_to(folder)} {_stamp(file)}" for file in chosen)
    stamp = (_stamp(Path(listed)),) if listed else ()
    return SubjectPictures(
        owner, [str(file.relative_to(folder)) for file in chosen], lambda i: read_picture(chosen[i]), (*content, *stamp)
    )


def read_picture(path: Path) -> NDArray[Any]:
    """The pixels of a PNG, JPEG or TIFF file.

    Raises:
        StorageError: it cannot be decoded, has several pages, or more than 64 megapixels.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                got = f"{image.width}x{image.height}"
                raise StorageError("the image is too large", where=path, expected=f"{MAX_PIXELS:,} pixels", got=got)
            if (pages := getattr(image, "n_frames", 1)) > 1:
                raise StorageError("several pages in one file", where=path, expected="one image", got=pages)
            return picture_pixels(image)
    except StorageError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        what = f"{type(error).__name__}: {error}"
        raise StorageError("cannot read an image", where=path, got=what, do="replace or remove it") from error


def _pictures(folder: Path) -> list[Path]:
    """Picture files below a folder, sorted; hidden ones are left out, and links to folders not followed."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        own = (Path(parent, name) for name in files if not name.startswith("."))
        found += [file for file in own if file.suffix.lower() in PICTURES]
    return sorted(found)


def _by_name(file: Path, names: _Ids) -> int | None:
    """The subject of a picture by the rule of names (see the module)."""
    cuts = [len(file.stem), *(match.start() for match in reversed(list(_CUT.finditer(file.stem))))]
    for cut in cuts:
        if (own := names.of(file.stem[:cut])) is not None:
            return own
    owners = (names.of(part) for part in reversed(file.parts[:-1]))
    return next((own for own in owners if own is not None), None)


def _is_zarr(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("zarr.json", ".zarray", ".zgroup"))


def _only_list(folder: Path) -> Path:
    """The list of images that a folder holds."""
    lists = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in LISTS]
    if len(lists) != 1:
        expected, got = "one CSV or Parquet file in the folder", _some([file.name for file in lists]) or "none"
        raise StorageError("no list of images", where=folder, expected=expected, got=got, do="name it (--image-list)")
    return lists[0]


def _list(path: Path, id_column: str | None) -> tuple[pa.Table, str]:
    """A list of images, and the name of its column of ids."""
    if not path.is_file():
        raise StorageError("no such list of images", where=path)
    try:
        table = pq.read_table(path) if path.suffix.lower() == ".parquet" else pacsv.read_csv(path)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise StorageError("cannot read the list of images", where=path, got=error) from error
    return table, _column(table, (id_column or "id",), str(path))


def _column(table: pa.Table, wanted: Iterable[str], where: str) -> str:
    by_lower = {name.lower(): name for name in table.column_names}
    for name in wanted:
        if name.lower() in by_lower:
            return by_lower[name.lower()]
    raise StorageError(
        "a column of the list of images is missing", where=where, expected=" or ".join(wanted),
        got=", ".join(table.column_names),
    )  # fmt: skip


def _row(value: Any, n: int, where: str) -> int:
    try:
        row = int(value)
    except (TypeError, ValueError) as error:
        raise StorageError("no row number of an image", where=where, got=repr(value)) from error
    if not 0 <= row < n:
        expected = f"0 to {n - 1}"
        raise StorageError("a row that the array of images does not have", where=where, expected=expected, got=row)
    return row


def _stamp(file: Path) -> str:
    """Size and time of a file, which stand for its bytes in a cache key."""
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
