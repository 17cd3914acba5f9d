"""The rehearsal: 1.1 million subjects x five association levels, complete, with phantom images at 32x32.

Command: python -m benchmarks.rehearsal            (1,100,000 subjects; 6 minutes on two cores, 2 GB of disk meanwhile)
         python -m benchmarks.rehearsal --quick    (40,000 subjects; a minute or two)

One process runs the flows as the console script does: generate-dataset, verify-dataset, then every image, latent and
table is read back through the reader. Memory is that of all processes together, including Prefect's server and this
script: the sum of their proportional set sizes, once a second; ``memory_growth`` compares the large data set with the
small ones. Stages inside generate-dataset are separated by the
modification times of their files. Before the large data set, six of 10,000 subjects are generated in the same way.
``cost_growth_percent`` compares the CPU seconds per subject of generating and publishing with the median of the last
five of those (the first is a warm-up). The table also has the other stages, whose figures at 10,000 subjects are mostly
start-up. CPU seconds are summed over all processes: they depend less on other load than time does.
``time_growth_percent`` is the same figure in wall time. ``drift_percent`` compares the last tenth of the shards of the
large data set with the first, in CPU seconds.
"""

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.report import argument_parser, print_result

FULL, QUICK, SMALL, REPEATS = 1_100_000, 40_000, 10_000, 6
SHARD = 2_000  # 5 shards at 10,000 subjects, 550 at 1.1 million
BYTES_PER_SUBJECT = 3_500  # on disk, rounded up
STAGES = ("start", "make", "report", "check and publish", "verify", "read back")
GROWING = ("make", "check and publish")  # at 10,000 subjects the other stages take a second or less, mostly start-up


def settings(n: int, seed: int) -> tuple[str, ...]:
    """Configuration overrides of a run of ``n`` subjects."""
    return (
        f"seed={seed}",
        "generator.backend=phantom",
        "generator.image_size=32",
        "dataset.name=rehearsal",
        f"dataset.n_subjects={n}",
        f"dataset.shard_size={SHARD}",
        "dataset.validation_fraction=0",
        "dataset.test_fraction=0.09090909090909091",
        "compute.concurrent_shards=2",
    )


def rehearse(folder: Path, n: int, seed: int) -> dict[str, Any]:
    """Generate, verify and read back one data set; returns the times at which stages ended, bytes and files."""
    from image_longitudinal.flows.generate_dataset import generate_dataset
    from image_longitudinal.flows.verify_dataset import verify

    began = time.time()
    generate_dataset(str(folder), overrides=settings(n, seed), workspace=str(folder.parent / "workspace"))
    shards = sorted(path.stat().st_mtime for path in (folder / "shards").iterdir())
    moments = [
        began,
        (folder / ".run.json").stat().st_mtime,
        shards[-1],
        (folder / "report.html").stat().st_mtime,
        (folder / "dataset.json").stat().st_mtime,
    ]
    report = verify(str(folder), workers=2)
    moments.append(time.time())
    read_back(folder, n)
    moments.append(time.time())
    tenth = len(shards) // 10
    first, last = [shards[0], shards[tenth]], [shards[-1 - tenth], shards[-1]]
    return {"subjects": n, "moments": moments, "tenths": first + last, "bytes": report.bytes, "files": report.files}


def read_back(folder: Path, n: int) -> None:
    """Read every image, latent and row through the reader; AssertionError if anything is not as designed."""
    from image_longitudinal.storage.dataset.reader import open_dataset

    dataset = open_dataset(folder)
    assert len(dataset) == n
    for shard in dataset.plan:
        images, latents = dataset.images(shard.start, shard.stop), dataset.latents(shard.start, shard.stop)
        assert images.shape[1:] == (32, 32)
        assert images.std() > 20, "images without contrast"
        assert abs(latents.mean()) < 0.1
    rows = 1 + len(dataset.manifest.times)
    parts: list[tuple[str, float | None, int]] = [("subjects", None, n)]
    for level in dataset.levels:
        parts += [("random_effects", level, n), ("observations", level, rows * n)]
    for table, at, expected in parts:
        batches = dataset.scan(table, at).to_batches(batch_readahead=2, fragment_readahead=2)  # bounds the memory
        assert sum(batch.num_rows for batch in batches) == expected


def child(folder: Path, n: int) -> None:
    """All the work, in one process: the small data sets, then the large one. Results go to results.json."""
    from image_longitudinal.cli.prefect_session import starting_prefect

    with starting_prefect():
        from image_longitudinal.flows import generate_dataset  # noqa: F401
    runs = []
    for number in range(REPEATS + 1):
        target = folder / f"data{number}"
        runs.append(rehearse(target, n if number == REPEATS else SMALL, seed=1 + number))
        shutil.rmtree(target)
        (folder / "results.json").write_text(json.dumps(runs))


class ResourceMonitor(threading.Thread):
    """Samples CPU time (often: stages of the small runs take seconds) and memory of this process and its children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.used: list[tuple[float, float]] = []  # moment, CPU seconds
        self.held: list[tuple[float, float]] = []  # moment, GB
        self.cpu: dict[int, float] = {}  # of each process, those that ended included

    def run(self) -> None:
        """Until the program ends."""
        me = psutil.Process()
        for index in itertools.count():
            memory = 0.0
            for process in (me, *me.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # it has just ended
                    self.cpu[process.pid] = sum(process.cpu_times()[:2])
                    memory += _proportional(process) if index % 10 == 0 else 0.0
            self.used.append((time.time(), sum(self.cpu.values())))
            if memory:
                self.held.append((time.time(), memory / 1e9))
            time.sleep(0.1)

    def peak(self, began: float, ended: float) -> float:
        """GB at most between two moments."""
        return max((gb for moment, gb in self.held if began <= moment <= ended), default=0.0)

    def cpu_seconds(self, moments: list[float]) -> list[float]:
        """CPU seconds between moments that follow each other."""
        times, used = zip(*self.used, strict=True)
        return [float(value) for value in np.diff(np.interp(moments, times, used))]


def _proportional(process: psutil.Process) -> float:
    """Bytes of a process; shared pages count in proportion if the system reports that."""
    memory = process.memory_full_info()
    return float(getattr(memory, "pss", memory.rss))


def costs(run: dict[str, Any], monitor: ResourceMonitor) -> dict[str, dict[str, float]]:
    """Wall and CPU seconds, by stage."""
    moments = run["moments"]
    clock = [later - earlier for earlier, later in itertools.pairwise(moments)]
    return {
        "clock": dict(zip(STAGES, clock, strict=True)),
        "cpu": dict(zip(STAGES, monitor.cpu_seconds(moments), strict=True)),
    }


def growth(runs: list[dict[str, Any]], measured: list[dict[str, dict[str, float]]], kind: str) -> float:
    """By how many per cent a subject of the last run costs more than one of the small runs."""
    each = [sum(m[kind][stage] for stage in GROWING) / run["subjects"] for run, m in zip(runs, measured, strict=True)]
    return 100 * (each[-1] / statistics.median(each[1:-1]) - 1)


def main() -> None:
    """Run the child, monitor it, print the table and the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--subjects", type=int, help="number of subjects")
    parser.add_argument("--folder", type=Path, help="where to write the data sets (default: the temporary folder)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    n = options.subjects or (QUICK if options.quick else FULL)
    if options.child:
        child(options.child, n)
        return
    with tempfile.TemporaryDirectory(prefix="rehearsal-", dir=options.folder) as name:
        folder = Path(name)
        if (free := shutil.disk_usage(folder).free) < n * BYTES_PER_SUBJECT:
            raise SystemExit(f"{folder}: {n * BYTES_PER_SUBJECT / 1e9:.1f} GB are needed, {free / 1e9:.1f} are free")
        monitor = ResourceMonitor()
        monitor.start()
        runs = run_child(folder, n)
    large, measured = runs[-1], [costs(run, monitor) for run in runs]
    began, ended = large["moments"][0], large["moments"][-1]
    total, peaks = ended - began, [monitor.peak(run["moments"][0], run["moments"][-1]) for run in runs]
    memory_growth = peaks[-1] / max(statistics.median(peaks[1:-1]), 1e-9)
    clock, cpu = measured[-1]["clock"], measured[-1]["cpu"]
    more = {kind: growth(runs, measured, kind) for kind in ("clock", "cpu")}
    first_tenth, _, last_tenth = monitor.cpu_seconds(large["tenths"])
    drift = 100 * (last_tenth / max(first_tenth, 1e-9) - 1)
    print(f"{'':<18} {'':>8} {'':>11} {'CPU us':>10} {'the same':>10}")
    print(f"{'stage':<18} {'seconds':>8} {'subjects/s':>11} {'a subject':>10} {'at 10,000':>10}")
    for stage in STAGES:
        small = statistics.median(run["cpu"][stage] for run in measured[1:-1]) / SMALL * 1e6
        rate = n / max(clock[stage], 1e-9)
        print(f"{stage:<18} {clock[stage]:>8.1f} {rate:>11,.0f} {cpu[stage] / n * 1e6:>10.1f} {small:>10.1f}")
    print(f"{'all':<18} {total:>8.1f} {n / total:>11,.0f} {sum(cpu.values()) / n * 1e6:>10.1f}")
    print(f"{large['bytes'] / 1e9:.2f} GB in {large['files']:,} files, {large['bytes'] / n:,.0f} bytes a subject")
    print(f"peak memory of all processes {peaks[-1]:.2f} GB, {memory_growth:.2f} times that at {SMALL:,} subjects")
    print(
        f"cost per subject relative to {SMALL:,} subjects: {more['cpu']:+.1f} % CPU time, {more['clock']:+.1f} % time"
    )
    print(f"last tenth of the shards relative to the first: {drift:+.1f} % CPU time")
    result = {
        "subjects": n,
        "seconds_total": round(total, 1),
        "peak_memory_gb": round(peaks[-1], 3),
        "memory_growth": round(memory_growth, 4),
        "cost_growth_percent": round(more["cpu"], 1),
        "time_growth_percent": round(more["clock"], 1),
        "drift_percent": round(drift, 1),
        "seconds": {stage: round(value, 1) for stage, value in clock.items()},
        "cpu_seconds": {stage: round(value, 1) for stage, value in cpu.items()},
        "bytes": large["bytes"],
    }
    print_result(("prefect", "pyarrow", "numpy", "zarr"), result)


def run_child(folder: Path, n: int) -> list[dict[str, Any]]:
    """Run the child in ``folder``, print its last log line every ten seconds, and return its results."""
    project = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(project), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "benchmarks.rehearsal", "--child", str(folder), "--subjects", str(n)]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        while process.poll() is None:
            time.sleep(10)
            lines = (folder / "log").read_text(errors="replace").splitlines()
            print("..", (lines or ["starting"])[-1][:160], flush=True)
    finally:
        process.terminate()
    if process.returncode:
        raise SystemExit((folder / "log").read_text(errors="replace")[-3000:])
    return json.loads((folder / "results.json").read_text())


if __name__ == "__main__":
    main()
