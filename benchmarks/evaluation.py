"""How much of what the images hold each predictor finds, and what an evaluation costs, stage by stage.

    python -m benchmarks.evaluation            50,000 training and 5,000 test subjects, phantoms at 64x64
    python -m benchmarks.evaluation --quick    4,000 and 1,000

Makes a phantom data set by the command line, evaluates it by the command line, and reads what that wrote. Shares are
of the realised ceiling: R² of E[η | z] on the same test subjects.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

STAGES = {
    "reader.json": "read images",
    "population.json": "fit population",
    "informed.json": "predict effects",
    "scores.json": "score",
    "checks.json": "design against truth",
    "null.json": "null check",
}
BARS = {1.0: (60, 95), 0.5: (60, 95), 0.1: (54, 90), 0.0526: (52, 85), 0.02: (32, 75)}  # for (a) and (b), percent


def command(folder: str, *arguments: str) -> tuple[float, float]:
    """Seconds and peak memory in GB of one command of the console script, in a Prefect home of its own."""
    environment = {**os.environ, "PREFECT_HOME": f"{folder}/prefect"}
    began = time.perf_counter()
    with open(f"{folder}/log", "wb") as log:
        full = [sys.executable, "-m", "flows.cli", *arguments]
        process = os.posix_spawn(
            sys.executable, full, environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, log.fileno(), 1), (os.POSIX_SPAWN_DUP2, log.fileno(), 2)],
        )  # fmt: skip
        _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(Path(folder, "log").read_text()[-3000:])
    return time.perf_counter() - began, usage.ru_maxrss / 1e6


def stage_seconds(workspace: Path, began: float) -> dict[str, float]:
    """Seconds of each kind of stage: stages run one after the other, so each ends where the next begins."""
    folders = [folder for folder in (workspace / "evaluation").iterdir() if folder.is_dir()]
    ended = sorted((max(file.stat().st_mtime for file in folder.iterdir()), folder) for folder in folders)
    seconds: dict[str, float] = {}
    for end, folder in ended:
        names = {file.name for file in folder.iterdir()}
        name = next((STAGES[mark] for mark in STAGES if mark in names), "empirical Bayes estimates")
        seconds[name] = seconds.get(name, 0.0) + end - began
        began = end
    return {name: round(value, 1) for name, value in seconds.items()}


def main() -> None:
    """Print the table and the result line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    train, test = (4_000, 1_000) if options.quick else (50_000, 5_000)
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            "generator.backend=phantom", "generator.image_size=64", f"dataset.n_subjects={train + test}",
            "dataset.shard_size=1000", "dataset.validation_fraction=0", f"compute.workers={options.workers}",
            f"dataset.test_fraction={test / (train + test)}",
        ]  # fmt: skip
        data, workspace, output = (f"{folder}/{name}" for name in ("data", "workspace", "evaluation"))
        changes = [argument for setting in settings for argument in ("--set", setting)]
        generated, _ = command(folder, "generate", "--output", data, "--workspace", workspace, *changes)
        began = time.time()
        evaluated, memory = command(
            folder, "evaluate", data, "--output", output, "--workspace", workspace, "--workers", str(options.workers)
        )
        figures = json.loads(Path(output, "evaluation.json").read_text())
        stages = stage_seconds(Path(workspace), began)
    shares: dict[str, dict[str, float]] = {}
    print(f"{train:,} training and {test:,} test subjects; % of the realised ceiling (bar)")
    heads = (("level", 8), ("(a) regression", 18), ("(b) informed", 18), ("(c) one step", 14), ("(d) oracle", 12))
    print("".join(f"{text:>{width}}" for text, width in heads) + f"{'b / oracle':>12}")
    for level in figures["levels"]:
        effects = level["effects"]
        of = {name: 100 * effects[name]["of_realised"][0] for name in ("regression", "informed", "one_step", "oracle")}
        bar = BARS[level["level"]]
        shares[str(level["level"])] = {name: round(value, 2) for name, value in of.items()}
        print(
            f"{level['level']:>8g}{of['regression']:>11.1f} ({bar[0]:>3}){of['informed']:>13.1f} ({bar[1]:>2})"
            f"{of['one_step']:>14.1f}{of['oracle']:>12.1f}{of['informed'] / of['oracle']:>12.3f}"
        )
    for name, seconds in stages.items():
        print(f"{name:<28}{seconds:8.1f} s")
    print(f"{'evaluation in all':<28}{evaluated:8.1f} s, peak {memory:.2f} GB; the data set took {generated:.0f} s")
    result = {
        "benchmark": "evaluation",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {options.workers} workers",
        "versions": {name: version(name) for name in ("image-longitudinal", "numpy", "numba", "prefect")},
        "training_subjects": train,
        "test_subjects": test,
        "share_of_ceiling_percent": {
            name: {level: one[key] for level, one in shares.items()}
            for name, key in (("a", "regression"), ("b", "informed"))
        },
        "share_of_oracle_percent": {
            level: round(100 * one["informed"] / one["oracle"], 2) for level, one in shares.items()
        },
        "checks_passed": all(check["passed"] for check in figures["checks"]),
        "null_r2": {name: round(one["value"], 5) for name, one in figures["null"]["r2"].items()},
        "seconds_by_stage": stages,
        "seconds_total": round(evaluated, 1),
        "peak_memory_gb": round(memory, 3),
        "seconds_generation": round(generated, 1),
    }  # fmt: skip
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
