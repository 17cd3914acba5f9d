"""Writing a prepared image set in one pass, in a temporary folder that is renamed when it is complete."""

import contextlib
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_longitudinal.core.digest import file_sha256
from image_longitudinal.core.errors import DamagedError, IngestError, StorageError
from image_longitudinal.core.files import move_into_place, temporary_folder, write_atomically
from image_longitudinal.storage.io.root import storage_errors
from image_longitudinal.storage.scans.contact_sheet import REAL_SCANS, contact_sheet
from image_longitudinal.storage.scans.near_duplicates import near_duplicates, perceptual_hash
from image_longitudinal.storage.scans.prepared import (
    CONTACT_SHEET,
    MANIFEST,
    DuplicatePair,
    ImagesFile,
    ImageSource,
    PreparedImage,
    PreparedImages,
    PreparedManifest,
    images_file,
    open_prepared,
)
from image_longitudinal.storage.scans.scan_files import ReadScan, ScanFile, SetAside
from image_longitudinal.storage.scans.splits import SplitRule

TILE = 128  # pixels a side on the contact sheet: layers can be told apart, and 48 fit on a screen

Squares = Mapping[int, NDArray[np.uint8]]  # one image at every size: (size, size) by size


def write_prepared(
    folder: str | Path,
    scans: Iterable[ReadScan[Squares] | SetAside],
    *,
    sizes: Sequence[int],
    split: SplitRule,
    source: ImageSource,
    set_aside: Iterable[SetAside] = (),
    ignored: int = 0,
    minimum: int = 1,
    compare: bool = True,
    pictures: Callable[[PreparedImages], Mapping[str, Image.Image]] | None = None,
) -> PreparedImages:
    """Write a prepared image set in one pass over ``scans``, with one image in memory at a time.

    A run that is killed leaves nothing under ``folder``, and the next one removes its temporary folder. Files with the
    bytes of an earlier file are set aside.

    Args:
        folder: where to; an existing set with the same content is kept, a damaged one is replaced.
        scans: prepared scans and files set aside, in order (see :func:`storage.scans.scan_files.prepare_scan`).
        sizes: the sizes to keep, each of which every scan must hold.
        split: how patients are divided between splits.
        source: where the images came from; not part of the digest.
        set_aside, ignored: files that were not read (see :class:`storage.scans.scan_files.FoundScans`).
        minimum: fewer images than this are refused.
        compare: look for near-duplicates across patients.
        pictures: further pictures of the finished set, by file name.

    Raises:
        IngestError: fewer than ``minimum`` images, or fewer patients than splits, remain.
        StorageError: the set cannot be written, or ``folder`` has other content.
    """
    target = Path(folder)
    _refuse_foreign(target)
    with storage_errors("cannot write the prepared images", str(target)), temporary_folder(target) as temporary:
        arrays = [temporary / images_file(size) for size in sizes]
        kept, unused = _write_images(temporary, scans, sizes, compare)
        aside = sorted([*set_aside, *unused], key=lambda item: item.file)
        splits = _assign(kept, aside, split, minimum, source)
        images = tuple(_record(scan, splits) for scan in kept)
        manifest = PreparedManifest(
            sizes=tuple(sizes),
            fractions=split.fractions,
            seed=split.seed,
            near_duplicates=_pairs(images, [scan.content for scan in kept]) if compare else (),
            source=source,
            files={path.name: ImagesFile(file_sha256(path), path.stat().st_size) for path in arrays},
            images=images,
            set_aside=tuple(aside),
            ignored=ignored,
        )
        new = PreparedImages(temporary, manifest)
        shown = min((size for size in sizes if size >= TILE), default=max(sizes))
        note = REAL_SCANS if source.kind == "scans" else ""
        contact_sheet(new.images(shown), new.labels, tile=TILE, note=note).save(temporary / CONTACT_SHEET)
        for name, image in (pictures(new) if pictures else {}).items():
            image.save(temporary / name)
        write_atomically(temporary / MANIFEST, manifest.to_json())
        return _publish(new, target)


def _write_images(
    folder: Path, scans: Iterable[ReadScan[Squares] | SetAside], sizes: Sequence[int], compare: bool
) -> tuple[list[ReadScan[NDArray[np.uint8]]], list[SetAside]]:
    """Write the images; returns the scans used, with their perceptual hash as content, and the files set aside."""
    kept: dict[str, ReadScan[NDArray[np.uint8]]] = {}
    aside: list[SetAside] = []
    with contextlib.ExitStack() as writers:
        arrays = {size: writers.enter_context(npy_writer(folder / images_file(size), (size, size))) for size in sizes}
        for scan in scans:
            if isinstance(scan, SetAside):
                aside.append(scan)
            elif scan.sha256 in kept:
                aside.append(SetAside(scan.file.name, f"same bytes as {kept[scan.sha256].file.name}"))
            else:
                for size, append in arrays.items():
                    append(scan.content[size])
                hashed = perceptual_hash(scan.content[max(sizes)]) if compare else np.empty(0, np.uint8)
                kept[scan.sha256] = ReadScan(
                    scan.file, scan.sha256, scan.width, scan.height, hashed, scan.cures
                )  # fmt: skip
    return list(kept.values()), aside


@contextlib.contextmanager
def npy_writer(path: Path, shape: tuple[int, ...]) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """A function that appends one uint8 row to a new .npy file, whose header gets the number of rows at the end.

    It raises StorageError if the row has another shape or type.
    """
    count = 0

    def append(row: NDArray[np.uint8]) -> None:
        nonlocal count
        if row.shape != shape or row.dtype != np.uint8:
            got = f"{row.dtype} {row.shape}"
            raise StorageError("a row has the wrong shape or type", expected=f"uint8 {shape}", got=got)
        file.write(np.ascontiguousarray(row).data)
        count += 1

    with open(path, "wb") as file:
        _write_header(file, (0, *shape))
        start = file.tell()
        yield append
        file.seek(0)
        _write_header(file, (count, *shape))  # numpy reserves space in the header for the final count
        assert file.tell() == start, "the final header must be as long as the first"


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def phantom_scan(name: str, squares: Squares, label: str) -> ReadScan[Squares]:
    """A phantom image in the form that :func:`write_prepared` expects; its own patient."""
    largest = np.ascontiguousarray(squares[max(squares)])
    digest = hashlib.sha256(largest.tobytes()).hexdigest()
    return ReadScan(ScanFile(Path(name), name, name, label), digest, largest.shape[1], largest.shape[0], squares)


def _record(scan: ReadScan[Any], splits: Mapping[str, str]) -> PreparedImage:
    file, split = scan.file, splits[scan.file.patient]
    return PreparedImage(file.name, scan.sha256, file.patient, file.label, scan.width, scan.height, split, scan.cures)


def _assign(
    kept: Sequence[ReadScan[Any]], aside: Sequence[SetAside], split: SplitRule, minimum: int, source: ImageSource
) -> dict[str, str]:
    """The split of each patient; IngestError when there are too few images or patients."""
    patients = {scan.file.patient for scan in kept}
    n_splits = sum(share > 0 for share in split.fractions.values())
    if len(kept) < max(1, minimum) or len(patients) < n_splits:
        reasons = Counter(item.reason.split(":")[0] for item in aside).most_common(3)
        listed = ", ".join(f"{count} x {reason}" for reason, count in reasons) or "nothing"
        expected = f"at least {max(1, minimum)} images of {n_splits} patients"
        got, do = f"{len(kept)} of {len(patients)}; set aside: {listed}", "add scans, or see the reasons"
        raise IngestError("too few usable scans", where=source.folder, expected=expected, got=got, do=do)
    return split.assign(patients)


def _pairs(images: Sequence[PreparedImage], hashes: Sequence[NDArray[np.uint8]]) -> tuple[DuplicatePair, ...]:
    found = near_duplicates(np.stack(hashes), [image.patient for image in images])
    pairs = [(images[pair.first], images[pair.second], pair.distance) for pair in found]
    return tuple(DuplicatePair((a.file, b.file), (a.patient, b.patient), bits) for a, b, bits in pairs)


def _refuse_foreign(target: Path) -> None:
    with storage_errors("cannot look at the folder for prepared images", str(target)):
        taken = target.exists() and not (target / MANIFEST).exists() and (target.is_file() or any(target.iterdir()))
    if taken:
        expected, do = "no folder, an empty one or prepared images", "choose another folder"
        problem = "the folder for prepared images holds something else"
        raise StorageError(problem, where=target, expected=expected, do=do)


def _publish(new: PreparedImages, target: Path) -> PreparedImages:
    """Rename the finished folder, or keep an existing one with the same content unless it is damaged."""
    if (target / MANIFEST).exists() and (existing := _undamaged(target)):
        if existing.digest != new.digest:
            expected, do = f"digest {new.digest}", "choose another folder, or delete this one"
            problem = "other prepared images are here already"
            raise StorageError(problem, where=target, expected=expected, got=existing.digest, do=do)
        return existing
    shutil.rmtree(target, ignore_errors=True)
    move_into_place(new.folder, target)
    return PreparedImages(target, new.manifest)


def _undamaged(folder: Path) -> PreparedImages | None:
    """The prepared images in a folder, or None if their bytes are not as they were written."""
    try:
        existing = open_prepared(folder)
        existing.verify()
    except DamagedError:
        return None
    return existing
