"""Mutated files for every reader of what somebody else made; tests/test_foreign_bytes.py runs it, a process for each.

``python -m tests.foreign_bytes KIND COUNT FOLDER`` prints one line of JSON; any error that is not the project's ends it
with a traceback, as does memory beyond the limit.
"""

import contextlib
import faulthandler
import io
import json
import resource
import struct
import sys
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ImageLongitudinalError

MEMORY = 1 << 30  # bytes of address space beyond what the process has when the mutations begin
HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**30, 1e308, "", "..", "/etc/passwd", "\x1b[2J", "\ud800", "x" * 10_000, [], {},
    [[]], {"a": {"b": []}}, [0] * 1000,
)  # fmt: skip

Mutation = Callable[[np.random.Generator], None]  # makes one mutated file and reads it


def mutated(rng: np.random.Generator, data: bytes) -> bytes:
    """``data`` with one to four changes: bits, numbers, insertions, deletions, copies, truncation."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, max(len(out), 1)))
        match rng.integers(0, 7):
            case 0:
                out[at : at + 1] = bytes([out[at] ^ 1 << int(rng.integers(0, 8))]) if out else b""
            case 1:
                out[at : at + 1] = rng.bytes(1)
            case 2:
                extreme = rng.choice(np.array([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF], np.uint32))
                out[at : at + 4] = int(extreme).to_bytes(4, "little")
            case 3:
                out[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case 4:
                del out[at : at + int(rng.integers(1, 9))]
            case 5:
                out[at:at] = out[int(rng.integers(0, len(out) + 1)) :][:64]
            case 6 if rng.random() < 0.2:
                del out[at:]
    return bytes(out)


def mutated_json(rng: np.random.Generator, value: Any) -> Any:
    """A copy in which one to three values are removed, doubled or replaced by hostile ones."""
    copy = json.loads(json.dumps(value))
    for _ in range(rng.integers(1, 4)):
        place, parent = copy, copy
        key: Any = None
        while isinstance(place, dict | list) and place and (key is None or rng.random() < 0.8):
            parent = place
            key = rng.choice(list(place)) if isinstance(place, dict) else int(rng.integers(0, len(place)))
            place = place[key]
        if key is None:
            return HOSTILE[rng.integers(0, len(HOSTILE))]
        match rng.integers(0, 4):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, list):
                parent.append(place)
            case _:
                parent[key] = HOSTILE[rng.integers(0, len(HOSTILE))]
    return copy


def manifest(folder: Path) -> Mutation:
    """dataset.json, with a right digest in two of three cases, and what a reader does first."""
    from image_longitudinal.cli.describe import describe_dataset, describe_subject
    from image_longitudinal.storage.dataset.card import render_card, render_croissant
    from image_longitudinal.storage.dataset.manifest import read_shard_manifest
    from image_longitudinal.storage.dataset.reader import open_dataset
    from image_longitudinal.storage.io.open import open_root
    from tests.storage.conftest import write_dataset

    root = open_root(folder)
    write_dataset(root)
    texts = {path: (folder / path).read_bytes() for path in ("dataset.json", "shards/00001.json")}

    def mutate(rng: np.random.Generator) -> None:
        path = "dataset.json" if rng.random() < 0.7 else "shards/00001.json"
        text = texts[path]
        if rng.random() < 0.33:
            changed = mutated(rng, text)
        else:
            content = json.loads(text)
            del content["content_sha256"]
            content = mutated_json(rng, content)
            if isinstance(content, dict):
                with contextlib.suppress(ValueError):
                    content |= {"content_sha256": digest_of(content)}
            changed = (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
        (folder / path).write_bytes(changed)
        try:
            dataset = open_dataset(folder)
            describe_dataset(dataset)
            render_card(dataset)
            render_croissant(dataset)
            read_shard_manifest(dataset.root, 1)
            dataset.runs()
            describe_subject(dataset, 9)
        finally:
            (folder / path).write_bytes(text)

    return mutate


def zarr_metadata(folder: Path) -> Mutation:
    """The three documents of the group and its arrays."""
    from image_longitudinal.storage.dataset.reader import open_dataset
    from image_longitudinal.storage.io.open import open_root
    from tests.storage.conftest import write_dataset

    write_dataset(open_root(folder))
    dataset = open_dataset(folder)
    texts = {path: path.read_bytes() for path in sorted((folder / "images.zarr").rglob("zarr.json"))}
    seen = dataset.images[0:3]

    def mutate(rng: np.random.Generator) -> None:
        path = list(texts)[rng.integers(0, len(texts))]
        as_bytes = rng.random() < 0.33
        changed = mutated(rng, texts[path]) if as_bytes else json.dumps(mutated_json(rng, json.loads(texts[path])))
        path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
        try:
            assert np.array_equal(dataset.images[0:3], seen), "our reader believes the manifest"
            dataset.view().to_xarray()["image"][0].to_numpy()
        finally:
            path.write_bytes(texts[path])

    return mutate


def chunk(folder: Path) -> Mutation:
    """Compressed chunks, and the index of a shard, under right checksums."""
    from numcodecs import blosc, zstd

    from image_longitudinal.storage.dataset.images import encode_shard
    from image_longitudinal.storage.dataset.sharded_array import CRC_BYTES, ShardedArray, checksum, image_spec
    from image_longitudinal.storage.io.open import open_root

    root, spec = open_root(folder), image_spec(64, 64, 4)
    images = np.random.default_rng(0).integers(0, 40, (4, 64, 64), dtype=np.uint8).cumsum(axis=2).astype(np.uint8)
    file = folder / spec.shard_path(0)
    root.write(spec.shard_path(0), encode_shard([images], shard_rows=4))
    good = file.read_bytes()
    packed = [bytes(blosc.compress(np.ascontiguousarray(images[0]), codec, 5, 2)) for codec in (b"lz4", b"zstd")]
    packed.append(bytes(zstd.compress(np.ascontiguousarray(images[0]), 3)))

    def mutate(rng: np.random.Generator) -> None:
        index = np.frombuffer(good[-64 - CRC_BYTES : -CRC_BYTES], "<u8").reshape(4, 2)
        if rng.random() < 0.2:
            body, table = good[: -64 - CRC_BYTES], mutated(rng, index.tobytes())[:64].ljust(64, b"\0")
        else:
            kind = int(rng.integers(0, 3))
            changed = bytearray(packed[kind])
            if rng.random() < 0.6:  # the header: 16 bytes of blosc, up to 14 of zstd
                changed[:16] = mutated(rng, bytes(changed[:16]))[:16].ljust(16, b"\0")
            else:
                changed = bytearray(mutated(rng, bytes(changed)))
            data = bytes(changed)
            body = data if kind == 2 else data + checksum(data)
            table = np.array([[0, len(body)]] * 4, "<u8").tobytes()
        file.write_bytes(body + table + checksum(table))
        ShardedArray(root, spec, 4).read(0, 4)

    return mutate


def parquet(folder: Path) -> Mutation:
    """Parquet files with and without page checksums, of our writer's and of pyarrow's default encodings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from image_longitudinal.storage.dataset.table_reader import read_table
    from image_longitudinal.storage.io.open import open_root
    from tests.storage.conftest import write_dataset

    write_dataset(open_root(folder))
    paths = sorted(folder.rglob("*.parquet"))[::5]
    texts = [path.read_bytes() for path in paths]
    for text in texts[:3]:
        sink = io.BytesIO()
        pq.write_table(pq.read_table(pa.BufferReader(text)), sink, compression="none", write_page_checksum=False)
        texts.append(sink.getvalue())
    root = open_root(folder)

    def mutate(rng: np.random.Generator) -> None:
        (folder / "x.parquet").write_bytes(mutated(rng, texts[rng.integers(0, len(texts))]))
        read_table(root, "x.parquet")

    return mutate


def safetensors(folder: Path) -> Mutation:
    """Weights: the header, its length, and the bytes behind it; and the model.json beside them."""
    import torch

    from image_longitudinal.models.registry.metadata import read_model_file
    from image_longitudinal.models.training.tensor_files import load_tensors, save_tensors

    file, model = folder / "x.safetensors", Path("models/pretrained/oct-64/model.json").read_bytes()
    save_tensors(file, {"a": torch.arange(12.0).reshape(3, 4), "b": torch.zeros(2, dtype=torch.uint8)}, {"k": "v"})
    good = file.read_bytes()
    (size,) = struct.unpack("<Q", good[:8])
    header, content = json.loads(good[8 : 8 + size]), json.loads(model)
    del content["digest"]

    def mutate(rng: np.random.Generator) -> None:
        match rng.integers(0, 4):
            case 0:
                file.write_bytes(mutated(rng, good))
            case 1 | 2:
                text = json.dumps(mutated_json(rng, header)).encode()
                length = len(text) if rng.random() < 0.9 else int(rng.integers(0, 2**62))
                file.write_bytes(struct.pack("<Q", length) + text + good[8 + size :])
            case 3:
                changed = mutated_json(rng, content)
                if isinstance(changed, dict):
                    with contextlib.suppress(ValueError):
                        changed |= {"digest": digest_of(changed)}
                read_model_file(json.dumps(changed).encode(), "here")
                return
        load_tensors(file)

    return mutate


def archive(folder: Path) -> Mutation:
    """Zip files of each compression, and tar files of each."""
    from image_longitudinal.storage.scans.sources import local_scans

    noise = np.random.default_rng(0)
    members = {f"OCT/CNV/CNV-{i}-1.jpeg": noise.bytes(200) + bytes(300) for i in range(3)}
    archives = {}
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(buffer := io.BytesIO(), "w", kind) as packed:
            for name, data in members.items():
                packed.writestr(name, data)
        archives[f"{kind}.zip"] = buffer.getvalue()
    for ending, mode in (("tar", "w"), ("tar.gz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")):
        with tarfile.open(fileobj=(buffer := io.BytesIO()), mode=mode, format=tarfile.PAX_FORMAT) as tar:
            for name, data in members.items():
                item = tarfile.TarInfo(name + "é" * 60)
                item.size = len(data)
                tar.addfile(item, io.BytesIO(data))
        archives[f"x.{ending}"] = buffer.getvalue()

    def mutate(rng: np.random.Generator) -> None:
        name = list(archives)[rng.integers(0, len(archives))]
        (folder / name).write_bytes(mutated(rng, archives[name]))
        out = local_scans(folder / name, folder / f"out-{rng.integers(0, 2**60)}")
        assert all(folder in path.resolve().parents for path in out.rglob("*"))

    return mutate


def _read_scans(folder: Path) -> None:
    """Every scan of a folder; the first one set aside is the error."""
    from image_longitudinal.core.errors import IngestError
    from image_longitudinal.storage.scans.scan_files import SetAside, find_scans, read_scan

    found = find_scans(folder)
    for scan in (*found.set_aside, *(read_scan(file) for file in found.scans[:3])):
        if isinstance(scan, SetAside):
            raise IngestError(scan.reason)


def picture(folder: Path) -> Mutation:
    """Scans as PNG, JPEG and TIFF: their headers, and now and then the compressed pixels."""
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 80), np.uint8))
    options: dict[str, dict[str, Any]] = {
        "png": {}, "jpeg": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
        "tiff": {"compression": "tiff_lzw", "save_all": True, "append_images": [image]},
    }  # fmt: skip
    files = {}
    for kind, more in options.items():
        image.save(buffer := io.BytesIO(), kind, **more)
        files[kind] = buffer.getvalue()

    def mutate(rng: np.random.Generator) -> None:
        kind = list(files)[rng.integers(0, len(files))]
        good, file = files[kind], folder / ("scan.tif" if kind == "tiff" else "scan.png")
        head = 200 if rng.random() < 0.9 else len(good)
        ends_in_directory = kind == "tiff"  # TIFF keeps what it says of itself behind the pixels
        bad = (
            good[:-head] + mutated(rng, good[-head:]) if ends_in_directory else mutated(rng, good[:head]) + good[head:]
        )
        file.write_bytes(bad)
        _read_scans(folder)

    return mutate


def numpy_stack(folder: Path) -> Mutation:
    """B-scans in a NumPy file: the header's text, its length, and what follows it."""
    np.save(buffer := io.BytesIO(), np.zeros((2, 64, 70), np.uint16))
    good = buffer.getvalue()
    (length,) = struct.unpack("<H", good[8:10])

    def mutate(rng: np.random.Generator) -> None:
        fields: dict[str, Any] = {"descr": "<u2", "fortran_order": False, "shape": (2, 64, 70)}
        match rng.integers(0, 3):
            case 0:
                data = mutated(rng, good[: 10 + length]) + good[10 + length :]
            case 1:
                sizes = rng.choice(np.array([-1, 0, 1, 2, 64, 2**20, 2**31, 2**62]), rng.integers(0, 5))
                kinds = ("<u2", "<f8", "|O", "|S9", "<M8[s]", "|b1", "<c16", [("a", "<u2")], "<u2000000000", "'")
                fields |= {"shape": tuple(map(int, sizes)), "descr": kinds[rng.integers(0, len(kinds))]}
                text = repr(fields).encode() + b"\n"
                data = good[:8] + struct.pack("<H", len(text)) + text + good[10 + length :]
            case _:
                fields[str(rng.choice(list(fields)))] = HOSTILE[rng.integers(0, len(HOSTILE))]
                text = repr(fields).encode()[:60_000]
                data = good[:8] + struct.pack("<H", len(text)) + text + good[10 + length :]
        (folder / "volume.npy").write_bytes(data)
        _read_scans(folder)

    return mutate


def dicom_stack(folder: Path) -> Mutation:
    """B-scans in DICOM files of each common transfer syntax: the tags, and now and then the pixels."""
    from PIL import Image
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import (
        UID,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        JPEGBaseline8Bit,
        RLELossless,
    )

    pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 80), np.uint8)
    files = []
    for syntax in (
        ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless,
    ):  # fmt: skip
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, UID("1.2.840.10008.5.1.4.1.1.77.1.5.4")
        meta.MediaStorageSOPInstanceUID = UID("1.2.3")
        data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.Modality, data.PatientID, data.PhotometricInterpretation = "OPT", "7", "MONOCHROME2"
        data.NumberOfFrames, data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PixelRepresentation = 1, 0
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit = 7
        if syntax == JPEGBaseline8Bit:
            frames = []
            for frame in pixels:
                Image.fromarray(frame).save(buffer := io.BytesIO(), "jpeg")
                frames.append(buffer.getvalue())
            data.PixelData = encapsulate(frames)
        elif syntax == RLELossless:
            data.PixelData = pixels.tobytes()
            data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            data.compress(RLELossless)
        else:
            data.PixelData = pixels.tobytes()
        data.save_as(buffer := io.BytesIO(), enforce_file_format=True)
        files.append(buffer.getvalue())

    def mutate(rng: np.random.Generator) -> None:
        good = files[rng.integers(0, len(files))]
        head = 500 if rng.random() < 0.9 else len(good)
        (folder / "volume.dcm").write_bytes(good[:128] + mutated(rng, good[128:head]) + good[head:])
        _read_scans(folder)

    return mutate


def heidelberg(folder: Path) -> Mutation:
    """B-scans in Heidelberg's .vol and .E2E files: the headers, and now and then the rest."""
    from tests.storage.scans.heyex_files import write_e2e, write_vol

    stack = np.random.default_rng(0).integers(0, 255, (2, 64, 70), np.uint8)
    vol, e2e = write_vol(folder / "scan.vol", stack), write_e2e(folder / "scan.e2e", [stack])
    for name in ("scan.vol", "scan.e2e"):
        (folder / name).unlink()

    def mutate(rng: np.random.Generator) -> None:
        kind = str(rng.choice(["vol", "e2e"]))
        good = vol if kind == "vol" else e2e
        head = (400 if kind == "vol" else 1200) if rng.random() < 0.9 else len(good)
        file = folder / f"scan.{kind}"
        file.write_bytes(mutated(rng, good[:head]) + good[head:])
        try:
            _read_scans(folder)
        finally:
            file.unlink()

    return mutate


KINDS: dict[str, Callable[[Path], Mutation]] = {
    "manifest": manifest, "zarr-metadata": zarr_metadata, "chunk": chunk, "parquet": parquet,
    "safetensors": safetensors, "archive": archive, "picture": picture, "numpy-stack": numpy_stack,
    "dicom-stack": dicom_stack, "heidelberg": heidelberg,
}  # fmt: skip


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """At most :data:`MEMORY` more bytes of address space: what asks for more raises MemoryError, or dies."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    yield


def main(kind: str, count: int, folder: Path) -> None:
    """Run ``count`` mutations and print how many were read and how many refused."""
    faulthandler.enable()
    mutate, outcomes = KINDS[kind](folder), Counter[str]()
    with contextlib.suppress(ImageLongitudinalError):
        mutate(np.random.default_rng(0))  # imports and caches, before memory is limited
    with limited_memory():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin, slowest = time.monotonic(), 0.0
        for seed in range(1, count + 1):
            start = time.monotonic()
            try:
                mutate(np.random.default_rng(seed))
                outcomes["read"] += 1
            except ImageLongitudinalError:
                outcomes["refused"] += 1
            except BaseException:
                print(f"{kind}: mutation {seed}", file=sys.stderr)
                raise
            slowest = max(slowest, time.monotonic() - start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    figures = {"seconds": round(time.monotonic() - begin, 1), "slowest": round(slowest, 2), "grown_mb": round(grown)}
    print(json.dumps({**outcomes, **figures}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
