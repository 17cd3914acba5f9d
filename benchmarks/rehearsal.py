"""The rehearsal: 1.1 million subjects x five association levels, complete, with phantom images at 32x32.

Command: python -m benchmarks.rehearsal            (1,100,000 subjects; 6 minutes on two cores, 2 GB of disk meanwhile)
         python -m benchmarks.rehearsal --quick    (40,000 subjects; a minute or two)
         ... --study trial                         (with the study of that preset, at its one association level)

This process runs the flows as the console script does: generate-dataset, verify-dataset, then every image, latent and
table is read back. Memory is the sum of the proportional set sizes of all processes, Prefect's server included, once a
second; ``memory_growth`` compares the large data set with the small ones. Stages inside generate-dataset are separated
by the modification times of their files. ``cost_growth_percent`` compares CPU seconds per subject of generating and
publishing with the median of five data sets of 10,000 subjects, generated before in the same way after a first one as
warm-up; ``time_growth_percent`` does so in wall time, which depends more on other load. ``drift_percent`` compares the
last tenth of the shards with the first, in CPU seconds.
"""

import contextlib
import itertools
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import psutil

from benchmarks.report import argument_parser, print_result
from image_longitudinal.cli.prefect_session import starting_prefect
from image_longitudinal.storage.dataset.reader import open_dataset

FULL, QUICK, SMALL, REPEATS = 1_100_000, 40_000, 10_000, 6
BYTES_PER_SUBJECT = 3_500  # on disk, rounded up
OF_ARMS = ("potential_outcomes", "effects")  # tables with a row for each subject and arm
STAGES = ("start", "make", "report", "check and publish", "verify", "read back")
GROWING = [1, 3]  # of STAGES; at 10,000 subjects the others are mostly start-up
SETTINGS = (
    "generator.backend=phantom", "generator.image_size=32", "dataset.name=rehearsal", "dataset.validation_fraction=0",
    "dataset.test_fraction=0.09090909090909091", "compute.concurrent_shards=2",
    "dataset.shard_size=2000",  # 5 shards at 10,000 subjects, 550 at 1.1 million
)  # fmt: skip


class Rehearsal(NamedTuple):
    """The times at which the stages of one data set ended, preceded by the start, and its size."""

    moments: list[float]
    tenths: list[float]  # start and end of the first and of the last tenth of the shards
    bytes: int
    files: int


def settings_of(study: str | None) -> tuple[str, ...]:
    """The settings of all data sets, with the study and the association levels of a preset if one is named."""
    if study is None:
        return SETTINGS
    from image_longitudinal.core.presets import load_config

    preset = load_config(study)
    levels = list(preset.dataset.association)
    return *SETTINGS, f"study={preset.study.model_dump_json()}", f"dataset.association={levels}"


def rehearse(folder: Path, n: int, seed: int, settings: tuple[str, ...] = SETTINGS) -> Rehearsal:
    """Generate, verify, read back and remove one data set of ``n`` subjects."""
    from image_longitudinal.flows.generate_dataset import generate_dataset
    from image_longitudinal.flows.verify_dataset import verify

    overrides = (*settings, f"seed={seed}", f"dataset.n_subjects={n}")
    moments = [time.time()]
    generate_dataset(str(folder), overrides=overrides, workspace=str(folder.parent / "workspace"))
    shards = sorted(path.stat().st_mtime for path in (folder / "shards").iterdir())
    began, report, published = (
        (folder / name).stat().st_mtime for name in (".run.json", "report.html", "dataset.json")
    )
    moments += [began, shards[-1], report, published]
    verified = verify(str(folder), workers=2)
    moments.append(time.time())
    read_back(folder, n)
    moments.append(time.time())
    shutil.rmtree(folder)
    tenth = len(shards) // 10
    tenths = [shards[0], shards[tenth], shards[-1 - tenth], shards[-1]]
    return Rehearsal(moments, tenths, verified.bytes, verified.files)


def read_back(folder: Path, n: int) -> None:
    """Read every image, latent and row through the reader; AssertionError if anything is not as designed."""
    dataset = open_dataset(folder)
    assert len(dataset) == n
    for shard in dataset.plan:
        images, latents = dataset.images[shard.start : shard.stop], dataset.latents[shard.start : shard.stop]
        assert images.shape[1:] == (32, 32)
        assert images.std() > 20, "images without contrast"
        assert abs(latents.mean()) < 0.1
    rows = 1 + len(dataset.manifest.times)
    tables = [("subjects", n), ("random_effects", n), ("observations", rows * n)]
    if dataset.arms:
        tables += [("truth/propensity", n), *((f"truth/{name}", len(dataset.arms) * n) for name in OF_ARMS)]
    for table, expected in tables:
        for level in [None] if table in ("subjects", "truth/propensity") else dataset.levels:
            batches = dataset.scan(table, level).to_batches(
                batch_readahead=2, fragment_readahead=2
            )  # bounds the memory
            assert sum(batch.num_rows for batch in batches) == expected


class ResourceMonitor(threading.Thread):
    """Samples CPU time (often: stages of the small runs take seconds) and memory of this process and its children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float, float]] = []  # moment, CPU seconds, GB (each tenth time, else 0)

    def run(self) -> None:
        """Until the program ends."""
        me, cpu = psutil.Process(), dict[int, float]()  # CPU seconds of each process, those that ended included
        for index in itertools.count():
            memory = 0.0
            for process in (me, *me.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # it has just ended
                    cpu[process.pid] = sum(process.cpu_times()[:2])
                    if index % 10 == 0:
                        held = process.memory_full_info()
                        memory += getattr(held, "pss", held.rss)  # shared pages in proportion, if the system has that
            self.samples.append((time.time(), sum(cpu.values()), memory / 1e9))
            time.sleep(0.1)

    def cpu_seconds(self, moments: list[float]) -> np.ndarray:
        """CPU seconds between moments that follow each other."""
        times, used, _ = zip(*self.samples, strict=True)
        return np.diff(np.interp(moments, times, used))

    def peak_gb(self, start: float, stop: float) -> float:
        """The most memory of all processes between two times, in GB."""
        return max((gb for moment, _, gb in self.samples if start <= moment <= stop), default=0.0)


def main() -> None:
    """Run everything, then print the table and the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--subjects", type=int, help="number of subjects")
    parser.add_argument("--study", metavar="PRESET", help="preset whose study the data sets have (default: none)")
    parser.add_argument("--folder", type=Path, help="where to write the data sets (default: the temporary folder)")
    options = parser.parse_args()
    n = options.subjects or (QUICK if options.quick else FULL)
    monitor, sizes = ResourceMonitor(), [*[SMALL] * REPEATS, n]
    with tempfile.TemporaryDirectory(prefix="rehearsal-", dir=options.folder, ignore_cleanup_errors=True) as name:
        if (free := shutil.disk_usage(name).free) < n * BYTES_PER_SUBJECT:
            raise SystemExit(f"{name}: {n * BYTES_PER_SUBJECT / 1e9:.1f} GB are needed, {free / 1e9:.1f} are free")
        os.environ["PREFECT_HOME"] = f"{name}/prefect"
        monitor.start()
        with starting_prefect():
            from image_longitudinal.flows import generate_dataset  # noqa: F401
        settings = settings_of(options.study)
        runs = [rehearse(Path(name, f"data{i}"), size, 1 + i, settings) for i, size in enumerate(sizes)]
    large, began, ended = runs[-1], runs[-1].moments[0], runs[-1].moments[-1]
    seconds = np.array([(np.diff(run.moments), monitor.cpu_seconds(run.moments)) for run in runs])  # run, kind, stage
    clock, cpu = seconds[-1]
    small = np.median(seconds[1:-1], axis=0) / SMALL
    time_growth, cpu_growth = 100 * (seconds[-1][:, GROWING].sum(1) / n / small[:, GROWING].sum(1) - 1)
    total, peaks = ended - began, [monitor.peak_gb(run.moments[0], run.moments[-1]) for run in runs]
    first_tenth, _, last_tenth = monitor.cpu_seconds(large.tenths)
    drift = 100 * (last_tenth / max(first_tenth, 1e-9) - 1)
    print(f"{'stage':<18} {'seconds':>8} {'subjects/s':>11} {'CPU us each':>12} {f'of {SMALL:,}':>10}")
    for stage, elapsed, used, before in zip(STAGES, clock, cpu / n * 1e6, small[1] * 1e6, strict=True):
        print(f"{stage:<18} {elapsed:>8.1f} {n / max(elapsed, 1e-9):>11,.0f} {used:>12.1f} {before:>10.1f}")
    print(f"{'all':<18} {total:>8.1f} {n / total:>11,.0f} {cpu.sum() / n * 1e6:>12.1f}")
    figures = {
        "seconds_total": total, "peak_memory_gb": peaks[-1],
        "memory_growth": peaks[-1] / max(np.median(peaks[1:-1]), 1e-9), "cost_growth_percent": cpu_growth,
        "time_growth_percent": time_growth, "drift_percent": drift, "bytes": large.bytes, "files": large.files,
    }  # fmt: skip
    for label, value in figures.items():
        print(f"{label:<20} {value:>15,.2f}")
    result: dict[str, Any] = {
        "subjects": n,
        "study": options.study,
        **{label: round(value, 3) for label, value in figures.items()},
    }
    for kind, stages in (("seconds", clock), ("cpu_seconds", cpu)):
        result[kind] = dict(zip(STAGES, stages.round(1).tolist(), strict=True))
    print_result(("prefect", "pyarrow", "numpy", "zarr"), result)


if __name__ == "__main__":
    main()
