"""Storage compared with alternatives: writing, random reads, a shuffled epoch, a table scan, and lossless codecs.

Command: python -m benchmarks.storage            (2,048 images at 224x224, 8.8 million table rows; about 3 minutes)
         python -m benchmarks.storage --quick    (512 images, 1.1 million rows; about 1 minute)
         --folder DIR                            where to write (default: the system's temporary folder)

Each figure is a ratio of rates measured in alternating rounds of this run, the best round of each; above 1 ours is
faster. Every writer ends with an fsync, as ours always does. Reads are served from memory (page cache). Every reader
opens its files again each time. Codecs are compared on phantoms, on images of the bundled diffusion model, and on real
scans if available (in the folder SHARED_DATA, else ../shared/data).
"""

import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import torch
import webdataset
import zarr
from numpy.typing import NDArray
from PIL import Image
from zarr.codecs import ZstdCodec

from benchmarks.report import argument_parser, print_result
from image_longitudinal.core.config import GeneratorConfig
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.plan import ShardPlan
from image_longitudinal.core.random import subject_seeds
from image_longitudinal.models.design.association import draw_latents
from image_longitudinal.models.imaging.backends import load_image_model
from image_longitudinal.models.imaging.phantom import render
from image_longitudinal.models.pretrained import PRETRAINED
from image_longitudinal.models.scans.cleaning import clean_frame, resize
from image_longitudinal.storage.dataset.images import create_image_arrays, write_image_shard
from image_longitudinal.storage.dataset.loaders import SubjectLoader
from image_longitudinal.storage.dataset.manifest import (
    ImageInfo,
    Part,
    RootManifest,
    ShardManifest,
    write_root_manifest,
    write_shard_manifest,
)
from image_longitudinal.storage.dataset.reader import Dataset, open_dataset
from image_longitudinal.storage.dataset.run_claim import begin_run
from image_longitudinal.storage.dataset.tables import (
    PlannedDose,
    write_observations,
    write_random_effects,
    write_subjects,
)
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root, file_record
from image_longitudinal.tasks.workspace import Workspace

SIDE, LATENT, LEVEL, BATCH = 224, 16, 0.5, 64
TIMES = tuple(i / 2 for i in range(21))
DIGEST = digest_of("benchmark")


def main() -> None:
    """Print the tables and the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--folder", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    n, rows, rounds = (512, 50_000, 3) if options.quick else (2048, 400_000, 4)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        ids = np.arange(n)
        latents = draw_latents(1, ids, LATENT)
        images = np.concatenate(
            [render(latents[i : i + 64], subject_seeds(1, ids[i : i + 64]), SIDE) for i in range(0, n, 64)]
        )
        written = writing(folder, images, latents, rounds)
        write_dataset(open_root(folder / "ours"), images, latents)
        dataset = open_dataset(folder / "ours")
        figures = {
            "write_vs_npy": ratio(written, "np.save"),
            "random_read_vs_png": ratio(reading(folder, dataset, images, rounds), "PNG folder"),
            **loading(folder, dataset, images, rounds),
            "scan_vs_plain_parquet": ratio(scanning(folder, rows, 2 * rounds), "one plain Parquet file"),
        }
        codecs = compressing(images)
    packages = ("h5py", "numpy", "pillow", "pyarrow", "torch", "webdataset", "zarr")
    print_result(packages, {**figures, "codecs": codecs})


def ratio(seconds: dict[str, float], peer: str) -> float:
    """Rate of ours over the peer's."""
    return round(seconds[peer] / seconds["ours"], 3)


def measure(
    title: str, unit: str, amount: float, jobs: Mapping[str, Callable[[int], object]], rounds: int
) -> dict[str, float]:
    """Best seconds of each job, in alternating rounds, and a table of rates; a job receives its round's number."""
    seconds: dict[str, float] = {}
    for round_number in range(rounds):
        for name, job in jobs.items():
            began = time.perf_counter()
            job(round_number)
            seconds[name] = min(seconds.get(name, np.inf), time.perf_counter() - began)
    print(f"\n{title:<34}{unit:>12}{'ours is':>10}")
    for name, took in seconds.items():
        print(f"  {name:<32}{amount / took:>12,.0f}{took / seconds['ours']:>9.2f}x", flush=True)
    return seconds


def writing(folder: Path, images: NDArray[np.uint8], latents: NDArray[np.float32], rounds: int) -> dict[str, float]:
    """Seconds to write all images, lossless."""
    plan = ShardPlan(len(images), len(images))

    def ours(round_number: int) -> None:
        root = open_root(folder / f"shard{round_number}")
        write_image_shard(root, plan.shard(0), images, latents, shard_size=len(images))

    def npy(round_number: int) -> None:
        with open(folder / f"{round_number}.npy", "wb") as file:
            np.save(file, images)
            file.flush()
            os.fsync(file.fileno())

    def png(round_number: int) -> None:
        target = folder / f"png{round_number}"
        target.mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(target / f"{number:06d}.png")
        os.sync()

    def hdf5(round_number: int) -> None:
        with h5py.File(folder / f"{round_number}.h5", "w") as file:
            file.create_dataset("image", data=images, chunks=(1, SIDE, SIDE), compression="gzip", compression_opts=1)
            file.flush()
        to_disk(folder / f"{round_number}.h5")

    def plain_zarr(round_number: int) -> None:
        array = zarr.create_array(
            str(folder / f"{round_number}.zarr"), shape=images.shape, chunks=(1, SIDE, SIDE), dtype="uint8",
            compressors=ZstdCodec(level=3),
        )  # fmt: skip
        array[:] = images
        os.sync()

    def tar(round_number: int) -> None:
        write_tar(folder / f"npy{round_number}.tar", "npy", images)
        to_disk(folder / f"npy{round_number}.tar")

    jobs = {"ours": ours, "np.save": npy, "PNG folder": png, "HDF5, gzip 1": hdf5, "Zarr without sharding": plain_zarr,
            "WebDataset, .npy": tar}  # fmt: skip
    return measure(f"write {len(images)} images, {SIDE}x{SIDE}", "images/s", len(images), jobs, rounds)


def packed(array: NDArray[Any], form: str) -> bytes:
    """An array as ``npy``, or an image as ``png``."""
    buffer = io.BytesIO()
    if form == "npy":
        np.save(buffer, array)
    else:
        Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def write_tar(path: Path, form: str, images: NDArray[np.uint8], eta: NDArray[np.float32] | None = None) -> None:
    """A WebDataset tar file of the images, and of their random effects if given."""
    with tarfile.open(path, "w") as file:
        for index, image in enumerate(images):
            members = {f"image.{form}": packed(image, form)}
            if eta is not None:
                members["eta.npy"] = packed(eta[index], "npy")
            for name, data in members.items():
                member = tarfile.TarInfo(f"{index:06d}.{name}")
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))


def to_disk(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def reading(folder: Path, dataset: Dataset, images: NDArray[np.uint8], rounds: int) -> dict[str, float]:
    """Seconds to read single images in random order."""
    order = np.random.default_rng(0).integers(0, len(images), 400).tolist()
    hdf5 = h5py.File(folder / "0.h5")["image"]
    plain = zarr.open_array(str(folder / "0.zarr"), mode="r")
    sharded = zarr.open_array(str(folder / "ours/images.zarr/image"), mode="r")

    def each(read: Callable[[int], NDArray[np.uint8]]) -> Callable[[int], object]:
        assert all(np.array_equal(read(i), images[i]) for i in order[:3]), "wrong image"
        return lambda round_number: [read(i) for i in order]

    jobs = {
        "ours": each(lambda i: dataset.images[i]),
        "PNG folder": each(lambda i: np.asarray(Image.open(folder / f"png0/{i:06d}.png"))),
        "HDF5, gzip 1": each(lambda i: hdf5[i]),
        "Zarr without sharding": each(lambda i: plain[i]),
        "our files, zarr-python": each(lambda i: sharded[i]),
    }
    try:
        import zarrs  # noqa: F401

        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            fast = zarr.open_array(str(folder / "ours/images.zarr/image"), mode="r")
            jobs["our files, zarrs pipeline"] = each(lambda i: fast[i])
    except ImportError:
        print("zarrs is not installed: its pipeline is left out")
    return measure("read single images at random", "images/s", len(order), jobs, rounds)


def loading(folder: Path, dataset: Dataset, images: NDArray[np.uint8], rounds: int) -> dict[str, Any]:
    """A shuffled epoch of images with three random effects, in batches, in one process; the peer in its best form."""
    eta = dataset.linked_eta[: len(images)].astype(np.float32)
    for form in ("npy", "png"):
        write_tar(folder / f"{form}.tar", form, images, eta)

    def ours(round_number: int) -> int:
        loader = SubjectLoader(dataset, split=None, fields=("image", "linked_eta"), batch_size=BATCH, seed=round_number)
        return sum(len(batch["image"]) for batch in loader)

    def peer(form: str) -> Callable[[int], int]:
        def epoch(round_number: int) -> int:
            stream = webdataset.WebDataset(str(folder / f"{form}.tar"), shardshuffle=False, seed=round_number)
            stream = stream.shuffle(1000).decode("l8").to_tuple(f"image.{form}", "eta.npy").batched(BATCH)
            return sum(len(torch.as_tensor(np.asarray(batch[0]))) for batch in stream)

        return epoch

    jobs = {"ours": ours, "WebDataset, .npy": peer("npy"), "WebDataset, .png": peer("png")}
    assert all(job(0) == len(images) for job in jobs.values()), "an incomplete epoch"
    seconds = measure(f"shuffled epoch, batches of {BATCH}", "images/s", len(images), jobs, rounds)
    best = min((name for name in seconds if name != "ours"), key=seconds.__getitem__)
    return {"loader_vs_peer": ratio(seconds, best), "loader_peer": f"{best} {version('webdataset')}"}


def scanning(folder: Path, n: int, rounds: int) -> dict[str, float]:
    """Seconds to read one association level's table: our files by shard and split against one file.

    The peer is one file written by pyarrow with its default compression, encodings and row groups.
    """
    root, rng = open_root(folder / "tables"), np.random.default_rng(0)
    plan = ShardPlan(n, 2000, test_fraction=1 / 11)  # the shards of the presets small and paper
    for shard in plan:
        dv = rng.lognormal(size=(len(shard), len(TIMES)))
        write_observations(root, shard, LEVEL, times=TIMES, doses=[PlannedDose(0, 1)], dv=dv)
    dataset = Dataset(root, root_manifest(plan, (), (), 8))
    table = dataset.observations(LEVEL).arrow
    pq.write_table(table, folder / "plain.parquet")
    jobs: dict[str, Callable[[int], object]] = {
        "ours": lambda round_number: dataset.observations(LEVEL),
        "one plain Parquet file": lambda round_number: pads.dataset(folder / "plain.parquet").to_table(),
        "our files, pyarrow alone": lambda round_number: pads.dataset(folder / "tables").to_table(),
    }
    ours, plain = sum(root.size(path) or 0 for path in root.files()), (folder / "plain.parquet").stat().st_size
    print(f"\nbytes of the table: ours {ours:,}, plain {plain:,}")
    return measure(f"scan {table.num_rows:,} rows", "rows/s", table.num_rows, jobs, rounds)


def compressing(phantoms: NDArray[np.uint8]) -> dict[str, dict[str, float]]:
    """Ratio of lossless codecs, and milliseconds per image to encode and decode, on generated and real scans."""
    samples = {f"phantom {SIDE}": phantoms[:60], "diffusion 64": diffusion_images(60)}
    samples |= {f"real {size}": real_scans(size, 24) for size in (224, 512)}
    shuffle = numcodecs.Blosc.BITSHUFFLE
    codecs: dict[str, Any] = {
        **{f"zstd {level}": numcodecs.Zstd(level) for level in (-3, 1, 3, 9)},
        **{f"blosc-zstd {level} bitshuffle": numcodecs.Blosc("zstd", level, shuffle) for level in (1, 5)},
        **{f"blosc-lz4 {level} bitshuffle": numcodecs.Blosc("lz4", level, shuffle) for level in (1, 5, 9)},
        "gzip 1": numcodecs.GZip(1),
    }
    coders = {name: (codec.encode, codec.decode) for name, codec in codecs.items()}
    coders["PNG"] = (lambda image: packed(image, "png"), lambda data: Image.open(io.BytesIO(data)).tobytes())
    print(f"\n{'lossless codec':<28}" + "".join(f"{name + ': ratio, ms in, out':>36}" for name in samples))
    out: dict[str, dict[str, float]] = {}
    for name, (encode, decode) in coders.items():
        cells = []
        for sample, images in samples.items():
            if not len(images):
                cells.append(f"{'no scans':>36}")
                continue
            began = time.perf_counter()
            pieces = [encode(np.ascontiguousarray(image)) for image in images]
            middle = time.perf_counter()
            unpacked = [decode(piece) for piece in pieces]
            ended = time.perf_counter()
            assert b"".join(map(bytes, unpacked)) == images.tobytes(), f"{name} is not lossless"
            share = images.nbytes / sum(map(len, pieces))
            each_in, each_out = ((b - a) / len(images) * 1e3 for a, b in ((began, middle), (middle, ended)))
            cells.append(f"{share:>18.2f}{each_in:>9.3f}{each_out:>9.3f}")
            out.setdefault(name, {})[sample] = round(share, 3)
        print(f"  {name:<26}" + "".join(cells), flush=True)
    return out


def diffusion_images(count: int) -> NDArray[np.uint8]:
    """Images of the bundled model, uint8 (n, 64, 64)."""
    with tempfile.TemporaryDirectory() as workspace:
        model = load_image_model(GeneratorConfig(), Workspace.at(workspace).model(PRETRAINED), "cpu")
        ids = np.arange(count)
        return model.generate(draw_latents(1, ids, model.latent_dim), subject_seeds(1, ids))


def real_scans(size: int, count: int) -> NDArray[np.uint8]:
    """Real scans, prepared but not denoised, uint8 (n, size, size); none if they are not available."""
    folder = Path(os.environ.get("SHARED_DATA", "../shared/data")) / "kermany_sample"
    if not folder.is_dir():
        return np.empty((0, size, size), np.uint8)
    paths = sorted(folder.glob("*/*.jpeg"))[:: 380 // count][:count]
    return np.stack([resize(clean_frame(np.asarray(Image.open(path)), "none"), size) for path in paths])


def write_dataset(root: Root, images: NDArray[np.uint8], latents: NDArray[np.float32]) -> None:
    """A published data set of these images, with tables of one level."""
    plan, rng = ShardPlan(len(images), 512), np.random.default_rng(0)
    begin_run(root, DIGEST, {})
    size = plan.shard_size
    arrays = create_image_arrays(root, n=len(images), height=SIDE, width=SIDE, latent_dim=LATENT, shard_size=size)
    shards = []
    for shard in plan:
        rows = slice(shard.start, shard.stop)
        eta = latents[rows, :3].astype(float)
        files = write_image_shard(root, shard, images[rows], latents[rows], shard_size=size)
        tables = write_subjects(root, shard, seeds=subject_seeds(1, np.arange(shard.start, shard.stop)), eta=eta)
        tables += write_random_effects(root, shard, LEVEL, eta=eta, parameters={"ka": np.exp(eta[:, 0])})
        dv = rng.lognormal(size=(len(shard), len(TIMES)))
        tables += write_observations(root, shard, LEVEL, times=TIMES, doses=[PlannedDose(0, 1)], dv=dv)
        part = Part(key=DIGEST, files=(*files, *tables))
        made = ShardManifest(index=shard.index, start=shard.start, stop=shard.stop, parts={"all": part})
        shards.append(write_shard_manifest(root, made))
    write_root_manifest(root, root_manifest(plan, tuple(shards), (*arrays, file_record(root, ".run.json")), SIDE))


def root_manifest(plan: ShardPlan, shards: tuple[Any, ...], files: tuple[Any, ...], side: int) -> RootManifest:
    """The root manifest of this benchmark's data set."""
    model = ImageInfo(
        height=side, width=side, latent_dim=LATENT, backend="phantom", model="phantom", version="1", digest=DIGEST
    )
    return RootManifest(
        name="benchmark", identity=DIGEST, config={}, config_digest=DIGEST, seed=1, n_subjects=plan.n_subjects,
        shard_size=plan.shard_size, splits=plan.split_counts, levels=(LEVEL,), random_effects=("ka", "imax", "ic50"),
        eta_latents=(0, 1, 2), parameters=("ka",), times=TIMES, doses=(PlannedDose(0, 1),), image=model, shards=shards,
        files=files, versions={}, licence="", citation="",
    )  # fmt: skip


if __name__ == "__main__":
    main()
