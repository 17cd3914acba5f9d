"""Training images: scans from a folder, an archive or a URL, or phantoms."""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from prefect import task
from prefect.artifacts import create_markdown_artifact

from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import IngestError, StorageError
from image_longitudinal.core.escapes import for_markdown
from image_longitudinal.core.files import portable_name
from image_longitudinal.core.random import normals, stream_key, subject_seeds
from image_longitudinal.core.secrets import hidden
from image_longitudinal.models.imaging.phantom import LATENT_NAMES, render
from image_longitudinal.models.scans.cleaning import to_grey, to_sizes, to_square
from image_longitudinal.models.scans.plausibility import clean_scan
from image_longitudinal.storage.scans import scan_files
from image_longitudinal.storage.scans.contact_sheet import REAL_SCANS, before_and_after, evenly
from image_longitudinal.storage.scans.frame_cache import FrameCache
from image_longitudinal.storage.scans.prepared import (
    BEFORE_AFTER,
    CONTACT_SHEET,
    ImageSource,
    PreparedImages,
    open_prepared,
)
from image_longitudinal.storage.scans.prepared_writer import phantom_scan, write_prepared
from image_longitudinal.storage.scans.scan_files import (
    FoundScans,
    ReadScan,
    SetAside,
    find_scans,
)
from image_longitudinal.storage.scans.sources import local_scans
from image_longitudinal.storage.scans.splits import SplitRule
from image_longitudinal.tasks.engine.assets import record_product
from image_longitudinal.tasks.engine.cache_keys import CACHED, cached_or_fresh
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.ingest.specs import PhantomSpec, ScansSpec
from image_longitudinal.tasks.products import prepared_product
from image_longitudinal.tasks.reports.pictures import picture, thumbnail
from image_longitudinal.tasks.workspace import Workspace

WINDOW = 256  # scans submitted to the threads at a time, which bounds memory
PHANTOM_BATCH = 256
PAIRS, PAIR_SIZE = 12, 224  # before and after: how many, and about how many pixels a side


def ingest(
    source: str | None,
    config: Config,
    workspace: Workspace,
    refresh: bool = False,
    held_out: Mapping[str, str] | None = None,
) -> PreparedImages:
    """Prepared images of scans, or of phantoms if ``source`` is None; from the cache unless ``refresh``.

    Args:
        source: folder, zip or tar file, or fsspec URL of one of them.
        config: decides the images, see :mod:`tasks.ingest.specs`.
        workspace: where the images are kept.
        refresh: prepare them again in any case.
        held_out: split by file name of held-out scans, whose patients keep it; all others are for training. Without
            it all patients are divided by the seed.
    """
    if source is None:
        phantoms = PhantomSpec.of(config)
        target = str(workspace.images(phantoms.digest))
        prepared = cached_or_fresh(draw_phantoms, _is_intact, refresh, spec=phantoms, target=target)
    else:
        source = hidden(source)
        folder, known = local_scans(source, workspace.sources), dict(held_out or {})
        spec = ScansSpec.of(config, find_scans(folder), known)
        target, frames = str(workspace.images(spec.digest)), str(workspace.frames(spec.frames_digest))
        prepared = cached_or_fresh(
            ingest_scans, _is_intact, refresh, spec=spec, target=target, folder=str(folder), source=source,
            held_out=known, frames=frames, show=config.report.include_real_scans,
        )  # fmt: skip
    return open_prepared(prepared)


@task(name="ingest-scans", task_run_name="ingest {source}", **CACHED)
def ingest_scans(
    spec: ScansSpec, target: str, folder: str, source: str, held_out: dict[str, str], frames: str, show: bool
) -> str:
    """Clean every usable scan of a folder and bring it to one geometry; list the other files with the reason.

    ``show``: show scans in the artifact too.

    Returns the folder ``target`` of the prepared images, as :func:`draw_phantoms` does.
    """
    found, known = _without_late_scans(find_scans(folder), held_out)
    progress = Progress("ingest scans", len(found.scans), "scans")
    name = PurePosixPath(portable_name(source.rstrip("/"))).name
    prepared = write_prepared(
        target, _with_progress(_prepare_all(found, spec, FrameCache(Path(frames))), progress), sizes=spec.sizes,
        split=SplitRule(spec.fractions, spec.seed, known), set_aside=found.set_aside, ignored=found.ignored,
        source=ImageSource("scans", spec.preparation_version, name, spec.denoise), minimum=spec.min_images,
        pictures=partial(_before_and_after, Path(folder)),
    )  # fmt: skip
    return _reported(prepared, show, source)


@task(name="draw-phantoms", task_run_name="generate phantom images", **CACHED)
def draw_phantoms(spec: PhantomSpec, target: str) -> str:
    """Generate phantom training images with z ~ N(0, I), from random streams that no data set uses."""
    if spec.n_phantoms < spec.min_images:
        expected = f"at least images.min_images = {spec.min_images}"
        raise IngestError("too few phantom images", expected=expected, got=spec.n_phantoms)
    progress = Progress("generate phantoms", spec.n_phantoms, "images")
    prepared = write_prepared(
        target, _with_progress(_phantoms(spec), progress), sizes=spec.sizes,
        split=SplitRule(spec.fractions, spec.seed), source=ImageSource("phantom", spec.phantom_version),
        minimum=spec.min_images, compare=False,  # phantoms are independent
    )  # fmt: skip
    return _reported(prepared, True, None)


def _prepare_all(found: FoundScans, spec: ScansSpec, cache: FrameCache) -> Iterator[ReadScan[Any] | SetAside]:
    clean = partial(clean_scan, denoiser=spec.denoise, odd_scans=spec.odd_scans)
    finish = partial(to_sizes, sizes=spec.sizes)
    job = partial(scan_files.prepare_scan, clean=clean, finish=finish, cache=cache)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # threads: the slow parts release the interpreter lock
        for start in range(0, len(found.scans), WINDOW):
            yield from pool.map(job, found.scans[start : start + WINDOW])


def _before_and_after(folder: Path, prepared: PreparedImages) -> dict[str, Image.Image]:
    """Some scans of every class before and after cleaning, in the same frame."""
    records = prepared.manifest.images
    shown = evenly(prepared.labels, PAIRS)
    size = min(prepared.sizes, key=lambda size: abs(size - PAIR_SIZE))
    before = []
    for index in shown:
        scan = scan_files.read_scan(scan_files.listed_scan(folder, records[index].file))
        assert not isinstance(scan, SetAside), "it was read before"
        before.append(to_square(to_grey(scan.content), size))
    after = [prepared.images(size)[index] for index in shown]
    labels = [Path(records[index].file).stem for index in shown]
    return {BEFORE_AFTER: before_and_after(before, after, labels, note=REAL_SCANS)}


def _phantoms(spec: PhantomSpec) -> Iterator[ReadScan[Any]]:
    stream = stream_key(spec.seed, "phantom-training")
    for start in range(0, spec.n_phantoms, PHANTOM_BATCH):
        ids = np.arange(start, min(start + PHANTOM_BATCH, spec.n_phantoms))
        latents = normals(stream, ids, len(LATENT_NAMES)).astype(np.float32)
        seeds = subject_seeds(stream >> 1, ids)
        drawn = {size: render(latents, seeds, size) for size in spec.sizes}
        for row, index in enumerate(ids):
            yield phantom_scan(f"phantom-{index:06d}", {size: drawn[size][row] for size in spec.sizes}, "phantom")


def _without_late_scans(found: FoundScans, held_out: Mapping[str, str]) -> tuple[FoundScans, dict[str, str] | None]:
    """Scans without later ones of held-out patients, and the split of each held-out patient (None: divide by seed)."""
    if not held_out:
        return found, None
    known = {scan.patient: held_out[scan.name] for scan in found.scans if scan.name in held_out}
    late = {scan.name for scan in found.scans if scan.patient in known and scan.name not in held_out}
    aside = [SetAside(name, "its patient is held out, and it was added later") for name in late]
    kept = [scan for scan in found.scans if scan.name not in late]
    return replace(found, scans=kept, set_aside=[*found.set_aside, *aside]), known


def _with_progress(scans: Iterable[Any], progress: Progress) -> Iterator[Any]:
    for done, scan in enumerate(scans, 1):
        yield scan
        progress.update(done)


def _reported(prepared: PreparedImages, show: bool, source: str | None) -> str:
    """The folder, after an artifact with counts, and with ``show`` with pictures; else it says where they are."""
    manifest, counts = prepared.manifest, prepared.manifest.counts
    parts = [*counts.by_split.items(), *counts.by_class.items(), *manifest.statistics.by_size.items()]
    numbers = "\n".join(f"| {for_markdown(name)} | {count:,} |" for name, count in parts)
    aside = ((for_markdown(item.file), for_markdown(item.reason)) for item in manifest.set_aside[:50])
    rows = "\n".join(f"| {file} | {reason} |" for file, reason in aside)
    cured = [(for_markdown(one.file), for_markdown("; ".join(one.cures))) for one in manifest.images if one.cures][:50]
    rows_cured = "\n".join(f"| {file} | {cure} |" for file, cure in cured)
    cures = f"\n\n| cured | what was done |\n|---|---|\n{rows_cured}" if cured else ""
    listed = f"\n\n| set aside | reason |\n|---|---|\n{rows}" if rows else ""
    more = f"\n\nand {counts.set_aside - 50} more, in the manifest" if counts.set_aside > 50 else ""
    there = [path for name in (CONTACT_SHEET, BEFORE_AFTER) if (path := prepared.folder / name).exists()]
    pictures = "\n\n".join(picture(thumbnail(path), path.name) for path in there)
    if not show:
        pictures = f"Pictures of the scans stay in the workspace: `{prepared.folder / CONTACT_SHEET}`"
    create_markdown_artifact(
        f"{counts.images:,} images of {counts.patients:,} patients, {counts.cured:,} of them cured, "
        f"{counts.set_aside:,} files set aside, "
        f"{len(manifest.near_duplicates):,} near-duplicates across patients\n\n"
        f"{pictures}"
        f"\n\n| split, class or size | images |\n|---|---|\n{numbers}{cures}{listed}{more}",
        key="prepared-images",
        description="What was ingested",
    )
    record_product(prepared_product(prepared, prepared.folder.parent.parent, source))
    return str(prepared.folder)


def _is_intact(folder: str) -> bool:
    try:
        open_prepared(folder).verify()
    except StorageError:
        return False
    return True
