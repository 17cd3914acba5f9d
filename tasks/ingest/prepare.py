"""Training images: real scans from a folder, an archive or a URL, or phantoms where there is none."""

from __future__ import annotations

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
from image_longitudinal.core.random import normals, stream_key, subject_seeds
from image_longitudinal.models.imaging.phantom import LATENT_NAMES, PHANTOM_VERSION, render
from image_longitudinal.models.scans.preparation import PREPARATION_VERSION, clean_frame, to_grey, to_sizes, to_square
from image_longitudinal.storage.scans.contact_sheet import before_and_after, evenly
from image_longitudinal.storage.scans.frame_cache import FrameCache
from image_longitudinal.storage.scans.prepared import BEFORE_AFTER, CONTACT_SHEET, PreparedImages, open_prepared
from image_longitudinal.storage.scans.prepared_writer import drawn_image, write_prepared
from image_longitudinal.storage.scans.scans import (
    FoundScans,
    ReadScan,
    SetAside,
    find_scans,
    prepare_scan,
    read_scan,
    scan_file,
)
from image_longitudinal.storage.scans.sources import local_scans
from image_longitudinal.tasks.engine.cache_keys import CACHED, cached_or_fresh, key_of
from image_longitudinal.tasks.engine.progress import Progress
from image_longitudinal.tasks.reports.pictures import picture, thumbnail
from image_longitudinal.tasks.workspace import Workspace

INGEST_VERSION = 2
MASTER_SIZES = (512, 224)  # the original's two geometries, kept whatever the preset trains on
WINDOW = 256  # scans handed to the threads at a time, so that any number fits in memory
PHANTOM_BATCH = 256
PAIRS, PAIR_SIZE = 12, 224  # before and after: how many, and about how many pixels a side


def ingest(
    source: str | None,
    config: Config,
    workspace: Workspace,
    refresh: bool = False,
    held_out: Mapping[str, str] | None = None,
) -> PreparedImages:
    """Prepared images of scans, or of phantoms if ``source`` is None; made only if they are not there yet.

    Args:
        source: folder, zip or tar file, or fsspec URL of one of them.
        config: which sizes, how cleaned, how split.
        workspace: where to.
        refresh: make them anew all the same.
        held_out: split by file name of the scans that are held out, whose patients are then in no other; all other
            patients are trained on. Without it patients are divided anew.
    """
    if source is None:
        sizes = sorted({config.vae.image_size, config.diffusion.image_size}, reverse=True)
        key = key_of(
            "draw-phantoms",
            INGEST_VERSION,
            phantom=PHANTOM_VERSION,
            sizes=sizes,
            images=config.images,
            seed=config.seed,
        )
        target = str(workspace.images(key))
        return _opened(draw_phantoms, refresh, key=key, target=target, sizes=sizes, config=config)
    folder = local_scans(source, workspace.sources)
    found = find_scans(folder)
    sizes = sorted({*MASTER_SIZES, config.vae.image_size, config.diffusion.image_size}, reverse=True)
    fingerprint = [(scan.name, scan.path.stat().st_size, scan.path.stat().st_mtime_ns) for scan in found.scans]
    key = key_of(
        "ingest-scans",
        INGEST_VERSION,
        preparation=PREPARATION_VERSION,
        folder=fingerprint,
        sizes=sizes,
        images=config.images,
        seed=config.seed,
        **({"held_out": dict(held_out)} if held_out else {}),
    )
    return _opened(
        ingest_scans,
        refresh,
        key=key,
        target=str(workspace.images(key)),
        sizes=sizes,
        config=config,
        folder=str(folder),
        source=source,
        held_out=dict(held_out or {}),
        frames=str(workspace.frames(key_of("clean-frame", PREPARATION_VERSION, denoise=config.images.denoise))),
    )


@task(name="ingest-scans", task_run_name="ingest {source}", **CACHED)
def ingest_scans(
    key: str,
    target: str,
    sizes: list[int],
    config: Config,
    folder: str,
    source: str,
    frames: str,
    held_out: dict[str, str],
) -> dict[str, Any]:
    """Clean and bring to one geometry every usable scan of a folder; list the others with the reason."""
    found, splits = _without_latecomers(find_scans(folder), held_out)
    progress = Progress("ingest scans", len(found.scans), "scans")
    prepared = write_prepared(
        target,
        _watched(_prepare_all(found, sizes, config.images.denoise, FrameCache(Path(frames))), progress),
        sizes=sizes,
        fractions=_fractions(config),
        seed=config.seed,
        splits=splits,
        source={
            "kind": "scans",
            "folder": PurePosixPath(source.rstrip("/")).name,
            "preparation": {"version": PREPARATION_VERSION, "denoise": config.images.denoise},
        },
        set_aside=found.set_aside,
        ignored=found.ignored,
        minimum=config.images.min_images,
        pictures=partial(_before_and_after, Path(folder)),
    )
    return _summarised(prepared)


@task(name="draw-phantoms", task_run_name="draw phantom images", **CACHED)
def draw_phantoms(key: str, target: str, sizes: list[int], config: Config) -> dict[str, Any]:
    """Draw phantom training images with z ~ N(0, I) from streams apart from any data set's."""
    n = config.images.n_phantoms
    if n < config.images.min_images:
        raise IngestError(
            "too few phantom images", expected=f"at least images.min_images = {config.images.min_images}", got=n
        )
    progress = Progress("draw phantoms", n, "images")
    prepared = write_prepared(
        target,
        _watched(_phantoms(n, sizes, config.seed), progress),
        sizes=sizes,
        fractions=_fractions(config),
        seed=config.seed,
        source={"kind": "phantom", "version": PHANTOM_VERSION},
        minimum=config.images.min_images,
        compare=False,  # each is drawn for itself
    )
    return _summarised(prepared)


def _prepare_all(
    found: FoundScans, sizes: list[int], denoiser: str, cache: FrameCache
) -> Iterator[ReadScan[Any] | SetAside]:
    clean, finish = partial(clean_frame, denoiser=denoiser), partial(to_sizes, sizes=sizes)
    job = partial(prepare_scan, clean=clean, finish=finish, cache=cache)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # threads: the slow parts let go of the interpreter
        for start in range(0, len(found.scans), WINDOW):
            yield from pool.map(job, found.scans[start : start + WINDOW])


def _before_and_after(folder: Path, prepared: PreparedImages) -> dict[str, Image.Image]:
    """Some scans of every class as they came, framed alike, beside what was made of them."""
    records = prepared.manifest["images"]
    shown = evenly(prepared.labels, PAIRS)
    size = min(prepared.sizes, key=lambda size: abs(size - PAIR_SIZE))
    before = []
    for index in shown:
        scan = read_scan(scan_file(folder / records[index]["file"], folder))
        assert not isinstance(scan, SetAside), "it could be read a moment ago"
        before.append(to_square(to_grey(scan.content), size))
    after = [prepared.images(size)[index] for index in shown]
    return {BEFORE_AFTER: before_and_after(before, after, [Path(records[index]["file"]).stem for index in shown])}


def _phantoms(n: int, sizes: list[int], seed: int) -> Iterator[ReadScan[Any]]:
    for start in range(0, n, PHANTOM_BATCH):
        ids = np.arange(start, min(start + PHANTOM_BATCH, n))
        latents = normals(stream_key(seed, "phantom-training"), ids, len(LATENT_NAMES)).astype(np.float32)
        seeds = subject_seeds(stream_key(seed, "phantom-training") >> 1, ids)
        drawn = {size: render(latents, seeds, size) for size in sizes}
        for row, index in enumerate(ids):
            yield drawn_image(f"phantom-{index:06d}", {size: drawn[size][row] for size in sizes}, "phantom")


def _fractions(config: Config) -> dict[str, float]:
    validation, test = config.images.validation_fraction, config.images.test_fraction
    return {"train": 1 - validation - test, "validation": validation, "test": test}


def _without_latecomers(found: FoundScans, held_out: Mapping[str, str]) -> tuple[FoundScans, dict[str, str] | None]:
    """Scans without those of held-out patients that came later, and the split of each patient (None: divide anew)."""
    if not held_out:
        return found, None
    splits = {scan.patient: held_out[scan.name] for scan in found.scans if scan.name in held_out}
    late = {scan.name for scan in found.scans if scan.patient in splits and scan.name not in held_out}
    aside = [SetAside(name, "its patient is held out, and it came later") for name in late]
    kept = [scan for scan in found.scans if scan.name not in late]
    return replace(found, scans=kept, set_aside=sorted([*found.set_aside, *aside], key=lambda item: item.name)), splits


def _watched(scans: Iterable[Any], progress: Progress) -> Iterator[Any]:
    for done, scan in enumerate(scans, 1):
        yield scan
        progress.update(done)


def _summarised(prepared: PreparedImages) -> dict[str, Any]:
    counts = prepared.manifest["counts"]
    aside = prepared.manifest["set_aside"]
    statistics, alike = prepared.manifest["statistics"], prepared.manifest["near_duplicates"]
    parts = [*counts["by_split"].items(), *counts["by_class"].items(), *statistics["by_size"].items()]
    shares = "\n".join(f"| {name} | {count:,} |" for name, count in parts)
    rows = "\n".join(f"| {item['file']} | {item['reason']} |" for item in aside[:50])
    listed = f"\n\n| set aside | reason |\n|---|---|\n{rows}" if aside else ""
    more = f"\n\nand {len(aside) - 50} more, in the manifest" if len(aside) > 50 else ""
    create_markdown_artifact(
        f"{counts['images']:,} images of {counts['patients']:,} patients, {len(aside):,} files set aside, "
        f"{len(alike):,} near-duplicates across patients\n\n"
        + "\n\n".join(
            picture(thumbnail(prepared.folder / name), name)
            for name in (CONTACT_SHEET, BEFORE_AFTER)
            if (prepared.folder / name).exists()
        )
        + f"\n\n| split, class or size | images |\n|---|---|\n{shares}{listed}{more}",
        key="prepared-images",
        description="What was ingested",
    )
    return {"folder": str(prepared.folder), "digest": prepared.digest}


def _opened(task: Any, refresh: bool, **parameters: Any) -> PreparedImages:
    """The prepared images that a task's (perhaps cached) result points to; made anew if they are gone."""
    return open_prepared(cached_or_fresh(task, _can_be_opened, refresh, **parameters)["folder"])


def _can_be_opened(result: dict[str, Any]) -> bool:
    try:
        open_prepared(result["folder"])
    except StorageError:
        return False
    return True
