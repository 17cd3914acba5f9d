"""What Prefect costs: CPU seconds per shard beyond the work itself, relative to the job at paper scale; and a rerun.

Command: python -m benchmarks.orchestration            (about 3 minutes)
         python -m benchmarks.orchestration --quick    (about 1 minute)

The same shards are generated twice: by calling the functions of the tasks one after another, and by the flow's own loop
with tasks, states, artifacts and manifests. CPU time of this process and of Prefect's server is compared: the loop
generates images and outcomes of a shard at the same time. The difference per shard does not depend on the shard's size,
so it is divided by the work of one shard of the paper preset with phantom images, the cheapest backend.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from image_longitudinal.tasks.engine.prefect_setup import DEFAULTS

os.environ.update(DEFAULTS, PREFECT_HOME=tempfile.mkdtemp(prefix="orchestration-"), PREFECT_LOGGING_LEVEL="WARNING")

import psutil
from prefect import flow

from benchmarks.report import argument_parser, print_result
from image_longitudinal.core.plan import Shard
from image_longitudinal.core.presets import load_config
from image_longitudinal.deployments.temporary_server import server_for_this_process
from image_longitudinal.flows.generate_dataset import make_missing_shards, specify
from image_longitudinal.storage.dataset.manifest import ShardManifest, write_shard_manifest
from image_longitudinal.storage.io.lease import hold_lease
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.shards.making import DatasetRun
from image_longitudinal.tasks.shards.parts import make_images, make_outcomes
from image_longitudinal.tasks.shards.specs import Execution
from image_longitudinal.tasks.workspace import Workspace

FOLDER = Path(os.environ["PREFECT_HOME"])
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
PHANTOM = ["generator.backend=phantom", "dataset.eta_dims=[0, 1, 2]"]
SMALL = [*PHANTOM, "generator.image_size=32", "dataset.shard_size=16", "probe.n_images=64"]


def dataset_run(name: str, overrides: list[str]) -> DatasetRun:
    """The run of a data set in a subfolder, as the flow has it."""
    config, workspace = load_config("demo", overrides=overrides), Workspace.at(FOLDER)
    spec = specify(config, None, workspace)
    return DatasetRun(open_root(FOLDER / name), spec, Execution.of(config, None, workspace))


def cpu_seconds() -> float:
    """CPU seconds that this process and its children (the server) have used so far."""
    this = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (this, *this.children(recursive=True)))


def plain_seconds(run: DatasetRun) -> float:
    """CPU seconds for all shards by plain function calls, manifests included."""

    def make(shard: Shard) -> None:
        image = make_images.fn(run.spec.images.of_shard(shard), run.root.url, run.execution).part
        outcomes = make_outcomes.fn(run.spec.outcomes.of_shard(shard), run.root.url).part
        parts = {"image": image, "outcomes": outcomes}
        manifest = ShardManifest(index=shard.index, start=shard.start, stop=shard.stop, parts=parts)
        write_shard_manifest(run.root, manifest)

    make(run.spec.plan.shard(0))  # compiles the kernels
    began = cpu_seconds()
    for shard in run.spec.plan:
        make(shard)
    return cpu_seconds() - began


def flow_seconds(run: DatasetRun) -> float:
    """CPU seconds for all shards by the flow's own loop."""

    @flow(name="orchestration-benchmark")
    def shards() -> float:
        with hold_lease(run.root, print) as lease:
            began = cpu_seconds()
            make_missing_shards(run, lease)
            return cpu_seconds() - began

    return shards()


def rerun_seconds() -> float:
    """Seconds of a command whose data set already exists, start and end included."""
    command = [sys.executable, "-m", "image_longitudinal.cli.app", "generate", "--output", str(FOLDER / "rerun")]
    command += [part for one in [*SMALL, "dataset.n_subjects=64"] for part in ("--set", one)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    for _ in range(2):
        began = time.perf_counter()
        subprocess.run(command, cwd=Path(__file__).parent.parent, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Print the table and the result line."""
    shards, n = (40, 50) if argument_parser(__doc__).parse_args().quick else (200, 200)
    paper = load_config("paper")
    size, shard_size = paper.diffusion.image_size, paper.dataset.shard_size
    small = [*SMALL, f"dataset.n_subjects={16 * shards}"]
    large = [*PHANTOM, f"generator.image_size={size}", f"dataset.n_subjects={n}", f"dataset.shard_size={n}"]
    rerun = rerun_seconds()
    plain = plain_seconds(dataset_run("plain", small))
    if server := server_for_this_process():
        server.wait()
    overhead = (flow_seconds(dataset_run("flow", small)) - plain) / shards
    work = plain_seconds(dataset_run("large", large)) * shard_size / n
    figures = {
        "overhead_percent": 100 * overhead / work,
        "overhead_seconds_per_shard": overhead,
        "work_seconds_per_small_shard": plain / shards,
        "work_seconds_per_paper_shard": work,
        "rerun_seconds": rerun,
    }
    print(f"CPU seconds per shard, of 16 at 32x32 and of {shard_size:,} at {size}x{size}; wall time of a rerun")
    for name, value in figures.items():
        print(f"{name:<30}{value:>10.3f}")
    print_result(("prefect", "sqlalchemy"), {name: round(value, 4) for name, value in figures.items()})


if __name__ == "__main__":
    main()
