"""What Prefect costs: CPU seconds per shard beyond the work itself, as a share of the job at paper scale; and a rerun.

Command: python -m benchmarks.orchestration            (about 3 minutes)
         python -m benchmarks.orchestration --quick    (about 1 minute)

The same shards are made twice: by calling the functions of the tasks one after another, and by the flow's own loop with
tasks, futures, states, artifacts and manifests. What is compared is CPU time, of this process and of Prefect's server:
the loop makes images and outcomes of a shard at the same time, so its wall time would flatter it. The difference per
shard does not depend on how large a shard is, so it is held against the work of one of the paper preset's shards, with
phantom images, which cost the least of all backends: with a network the work is longer and the share smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

OVERRIDES = ["generator.backend=phantom", "dataset.eta_dims=[0, 1, 2]"]
SMALL = [*OVERRIDES, "generator.image_size=32", "dataset.shard_size=16", "probe.n_images=64"]


def specification(folder: Path, overrides: list[str], preset: str = "demo") -> tuple[Any, Any]:
    """Spec and execution of a data set, as in the flow."""
    from image_longitudinal.core.presets import load_config
    from image_longitudinal.flows.generate_dataset import specify
    from image_longitudinal.tasks.shards.spec import Execution
    from image_longitudinal.tasks.workspace import Workspace

    config, workspace = load_config(preset, overrides=overrides), Workspace.at(folder)
    return specify(config, None, workspace), Execution.of(config, None, workspace)


def cpu_seconds() -> float:
    """CPU seconds that this process and its children (the server) have used so far."""
    this = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (this, *this.children(recursive=True)))


def plain_seconds(spec: Any, execution: Any, output: Path, shards: int) -> float:
    """CPU seconds for shards made by plain function calls, their manifests included."""
    from image_longitudinal.core.plan import Shard
    from image_longitudinal.storage.dataset.manifest import ShardManifest, write_shard_manifest
    from image_longitudinal.storage.io.filesystem import open_root
    from image_longitudinal.tasks.shards.parts import make_images, make_outcomes

    root = open_root(output)

    def make(shard: Shard) -> None:
        parts = {
            "image": make_images.fn(spec.images.of_shard(shard), root.url, execution).part,
            "outcomes": make_outcomes.fn(spec.outcomes.of_shard(shard), root.url).part,
        }
        write_shard_manifest(root, ShardManifest(index=shard.index, start=shard.start, stop=shard.stop, parts=parts))

    make(spec.plan.shard(0))  # compiles the kernels
    began = cpu_seconds()
    for index in range(shards):
        make(spec.plan.shard(index))
    return cpu_seconds() - began


def flow_seconds(spec: Any, execution: Any, output: Path) -> float:
    """CPU seconds for all shards of a specification by the flow's own loop."""
    from prefect import flow

    from image_longitudinal.flows.generate_dataset import make_missing_shards
    from image_longitudinal.storage.io.filesystem import open_root
    from image_longitudinal.storage.io.lease import hold_lease
    from image_longitudinal.tasks.shards.making import DatasetRun

    root = open_root(output)

    @flow(name="orchestration-benchmark")
    def shards() -> float:
        with hold_lease(root, print) as lease:
            began = cpu_seconds()
            make_missing_shards(DatasetRun(root, spec, execution), lease)
            return cpu_seconds() - began

    return float(shards())


def rerun_seconds(folder: Path) -> float:
    """Seconds of a command whose data set is there already, start and end included."""
    command = [sys.executable, "-m", "image_longitudinal.cli.app", "generate", "--output", str(folder / "rerun")]
    command += [part for one in [*SMALL, "dataset.n_subjects=64"] for part in ("--set", one)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    for _ in range(2):
        began = time.perf_counter()
        subprocess.run(command, cwd=Path(__file__).parent.parent, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Print the table and the result line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    shards, subjects = (40, 50) if quick else (200, 200)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PREFECT_HOME"] = str(folder / "prefect")
        os.environ["PREFECT_LOGGING_LEVEL"] = "WARNING"
        os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"  # as commands have it
        from image_longitudinal.cli.temporary_server import temporary_server
        from image_longitudinal.core.presets import load_config

        paper = load_config("paper")
        rerun = rerun_seconds(folder)
        small = specification(folder, [*SMALL, f"dataset.n_subjects={16 * shards}"])
        plain = plain_seconds(*small, folder / "plain", shards)
        with temporary_server():
            pass
        prefect = flow_seconds(*small, folder / "flow")
        overhead = (prefect - plain) / shards
        size = paper.diffusion.image_size
        large = [*OVERRIDES, f"generator.image_size={size}", f"dataset.n_subjects={subjects}"]
        work = plain_seconds(*specification(folder, [*large, f"dataset.shard_size={subjects}"]), folder / "large", 1)
        work *= paper.dataset.shard_size / subjects
    n_shards = -(-paper.dataset.n_subjects // paper.dataset.shard_size)
    percent = 100 * overhead / work
    print(f"{'':<44}{'CPU seconds':>12}")
    print(f"{f'{shards} small shards, plain calls':<44}{plain:>12.2f}")
    print(f"{f'{shards} small shards, Prefect':<44}{prefect:>12.2f}")
    print(f"{'Prefect per shard':<44}{overhead:>12.3f}")
    print(f"{f'work per shard of {paper.dataset.shard_size:,} at {size}x{size}':<44}{work:>12.1f}")
    print(f"{f'Prefect, all {n_shards} shards of the paper preset':<44}{overhead * n_shards:>12.1f}")
    print(f"{'the same command again (by the clock)':<44}{rerun:>12.1f}")
    print(f"overhead of orchestration at paper scale: {percent:.2f} %")
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {package: version(package) for package in ("image-longitudinal", "prefect", "sqlalchemy")},
        "overhead_percent": round(percent, 3),
        "overhead_seconds_per_shard": round(overhead, 4),
        "work_seconds_per_paper_shard": round(work, 1),
        "rerun_seconds": round(rerun, 1),
    }
    print("RESULT", json.dumps(result))


if __name__ == "__main__":
    main()
