"""How much of what the images hold each predictor finds, and what an evaluation costs, stage by stage.

    python -m benchmarks.evaluation              50,000 training and 5,000 test subjects, phantoms at 64x64
    python -m benchmarks.evaluation --quick      4,000 and 1,000
    python -m benchmarks.evaluation --data URL   an existing data set; --workspace holds the model of its images
    python -m benchmarks.evaluation --cost       cost at 10,000 and 100,000 subjects (--quick: 2,000 and 10,000),
                                                 phantoms at 32x32, five levels, and what that gives for 1.1 million
    python -m benchmarks.evaluation --cost --full    1.1 million subjects measured, at the level 0.5 alone

Generates and evaluates a phantom data set by the command line. Percentages are of the realised ceiling: R² of E[η | z]
on the same test subjects. The figures of ``--cost`` for 1.1 million subjects are extrapolated linearly from the two
sizes; ``--full`` measures. There one in eleven subjects is a test subject, as in the published data set.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import argument_parser, print_result
from image_longitudinal.models.evaluation.predictors import IMAGE_PREDICTORS, LABELS
from image_longitudinal.models.evaluation.records import Evaluation, LevelScores
from image_longitudinal.storage.io.open import open_root

STAGES = {
    "reading.json": "read images",
    "population.json": "fit population",
    "train.parquet": "empirical Bayes estimates",
    "informed.json": "predict effects",
    "scores.json": "score",
    "checks.json": "design against truth",
    "null.json": "null check",
    "resnet.npy": "train ResNet18",
}
BARS = {1.0: (60, 95), 0.5: (60, 95), 0.1: (54, 90), 0.0526: (52, 85), 0.02: (32, 75)}  # for (a) and (b), percent
DIFFUSION_BARS = {1.0: 85, 0.5: 85, 0.1: 80, 0.0526: 70, 0.02: 50}  # for (b) on images of a trained small model
SUBJECTS = 1_100_000  # of the published data set


def command(folder: str, *arguments: str, settings: Sequence[str] = ()) -> tuple[float, float]:
    """Seconds and peak memory in GB of one command of the console script, with a separate Prefect home."""
    environment, began = {**os.environ, "PREFECT_HOME": f"{folder}/prefect"}, time.perf_counter()
    changes = [argument for setting in settings for argument in ("--set", setting)]
    line = [sys.executable, "-m", "image_longitudinal.cli.app", *arguments, *changes]
    with open(f"{folder}/log", "wb") as log:
        process = subprocess.Popen(line, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(Path(folder, "log").read_text(encoding="utf-8")[-3000:])
    return time.perf_counter() - began, usage.ru_maxrss / 1e6


def stage_seconds(workspace: str, began: float) -> dict[str, float]:
    """Seconds of each kind of stage: stages run one after the other, so each ends where the next begins."""
    folders = [folder for folder in Path(workspace, "evaluation").iterdir() if folder.is_dir()]
    ended = sorted((max(file.stat().st_mtime for file in folder.iterdir()), folder) for folder in folders)
    seconds: dict[str, float] = {}
    for end, folder in ended:
        if end >= began:  # else it is of an earlier evaluation
            name = next(name for mark, name in STAGES.items() if (folder / mark).exists())
            seconds[name] = seconds.get(name, 0.0) + end - began
            began = end
    return {name: round(value, 1) for name, value in seconds.items()}


def phantoms(folder: str, workspace: str, train: int, test: int, workers: int, *more: str) -> tuple[str, float]:
    """A phantom data set, its address and the seconds it took."""
    settings = (
        "generator.backend=phantom", f"dataset.n_subjects={train + test}", "dataset.validation_fraction=0",
        f"dataset.test_fraction={test / (train + test)}", f"compute.concurrent_shards={workers}", *more,
    )  # fmt: skip
    arguments = ("generate", "--output", f"{folder}/data", "--workspace", workspace)
    return f"{folder}/data", command(folder, *arguments, settings=settings)[0]


def differences(fitted: Sequence[LevelScores], known: Sequence[LevelScores]) -> list[str]:
    """The sources whose R² lies outside the 95 % interval that the other population gives."""
    found = []
    for one, other in zip(fitted, known, strict=True):
        for name, scores in other.effects.items():
            a, b = one.effects[name].r2, scores.r2
            if not (b.low <= a.value <= b.high and a.low <= b.value <= a.high):
                found.append(f"{name} at {one.level:g}: {a.value:.4f} [{a.low:.4f}, {a.high:.4f}], known {b.value:.4f}")
    return found


def print_percentages(levels: Sequence[LevelScores], backend: str) -> dict[str, dict[str, float]]:
    """A line per level; percent of the realised ceiling by level and predictor."""
    names = [name for name in IMAGE_PREDICTORS if name in levels[0].effects]
    print(f"{'level':>8}" + "".join(f"{LABELS[name].split(',')[0]:>28}" for name in names) + f"{'b / oracle':>12}")
    percentages = {}
    for level in levels:
        of = {name: 100 * level.effects[name].of_realised.value for name in names}
        published, bar = BARS[level.level]
        bars = {"regression": published, "resnet": published, "informed": bar}
        if backend != "phantom":
            bars = {"informed": DIFFUSION_BARS[level.level]}
        cells = (f"{of[name]:.1f}" + (f" (bar {bars[name]})" if name in bars else "") for name in names)
        print(f"{level.level:>8g}" + "".join(f"{c:>28}" for c in cells) + f"{of['informed'] / of['oracle']:>12.3f}")
        percentages[str(level.level)] = {name: round(value, 2) for name, value in of.items()}
    return percentages


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Print the table of predictors, and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        workspace, url, generated = options.workspace or f"{folder}/workspace", options.data, 0.0
        if url is None:
            sizes = (4_000, 1_000) if options.quick else (50_000, 5_000)
            more = ("generator.image_size=64", "dataset.shard_size=1000")
            url, generated = phantoms(folder, workspace, *sizes, options.workers, *more)
        manifest = json.loads(open_root(url).read_bytes("dataset.json"))

        def evaluated(population: str, steps: int = 0) -> tuple[Evaluation, float, float]:
            settings = [f"population={population}", f"resnet.steps={steps}", "resnet.width=1"]
            if options.levels:
                settings.append(f"levels={options.levels}")
            output = f"{folder}/{population}"
            seconds, memory = command(
                folder, "evaluate", url, "--output", output, "--workspace", workspace, "--workers",
                str(options.workers), settings=[f"evaluation.{setting}" for setting in settings],
            )  # fmt: skip
            return Evaluation.read(Path(output, "evaluation.json")), seconds, memory

        began = time.time()
        figures, seconds, memory = evaluated("foce" if options.foce else "likelihood", options.resnet)
        stages = stage_seconds(workspace, began)
        known = evaluated("known")[0] if options.known else None
    train, test, backend = manifest["splits"]["train"], manifest["splits"]["test"], manifest["image"]["backend"]
    print(f"{train:,} training and {test:,} test subjects, {backend} images; % of realised ceiling")
    percentages = print_percentages(figures.levels, backend)
    outside = None
    if known:
        outside = differences(figures.levels, known.levels)
        print("with the true population")
        print_percentages(known.levels, backend)
        of = sum(len(level.effects) for level in known.levels)
        print(f"R² inside each other's 95 % interval: {of - len(outside)} of {of}", *outside, sep="\n  outside: ")
    for name, value in stages.items():
        print(f"{name:<28}{value:8.1f} s")
    print(f"{'evaluation in all':<28}{seconds:8.1f} s, peak {memory:.2f} GB; the data set took {generated:.0f} s")
    return {
        "backend": backend,
        "population": "foce" if options.foce else "likelihood",
        "training_subjects": train,
        "test_subjects": test,
        "share_of_ceiling_percent": {
            name: {level: one[key] for level, one in percentages.items()}
            for name, key in (("a", "regression"), ("b", "informed"))
        },
        "share_of_oracle_percent": {
            level: round(100 * one["informed"] / one["oracle"], 2) for level, one in percentages.items()
        },
        "resnet_percent": {level: one["resnet"] for level, one in percentages.items()} if options.resnet else None,
        "differs_with_known_population": outside,
        "checks_passed": not figures.failed,
        "null_r2": {name: round(one.value, 5) for name, one in figures.null.r2.items()},
        "seconds_by_stage": stages,
        "seconds_total": round(seconds, 1),
        "peak_memory_gb": round(memory, 3),
        "seconds_generation": round(generated, 1) or None,
    }


def measured(n: int, workers: int, levels: str = "[1.0, 0.5, 0.1, 0.0526, 0.02]") -> dict[str, Any]:
    """Seconds by stage and peak memory in GB of the evaluation of ``n`` phantom subjects at association ``levels``."""
    with tempfile.TemporaryDirectory() as folder:
        workspace, test = f"{folder}/workspace", n // 11
        more = ("generator.image_size=32", f"dataset.association={levels}", "dataset.shard_size=2000")
        url, _ = phantoms(folder, workspace, n - test, test, workers, *more)
        began = time.time()
        seconds, memory = command(
            folder, "evaluate", url, "--output", f"{folder}/out", "--workspace", workspace, "--workers", str(workers),
            settings=["evaluation.resnet.steps=0"],
        )  # fmt: skip
        stages = stage_seconds(workspace, began)
    return {"subjects": n, "seconds": {**stages, "in all": round(seconds, 1)}, "peak_memory_gb": round(memory, 3)}


def cost(options: argparse.Namespace) -> dict[str, Any]:
    """Print seconds by stage at several sizes, and return them."""
    if options.full:
        whole = measured(SUBJECTS, options.workers, "[0.5]")
        for stage, seconds in whole["seconds"].items():
            print(f"{stage:<28}{seconds / 60:>10.1f} min")
        print(f"peak memory {whole['peak_memory_gb']:.2f} GB")
        return {"measured": [whole]}
    sizes = (2_000, 10_000) if options.quick else (10_000, 100_000)
    small, large = (measured(n, options.workers) for n in sizes)

    def line(first: float, second: float) -> float:
        """The value for 1.1 million of the straight line through both sizes, not below that at the larger."""
        return max(second, second + (second - first) * (SUBJECTS - sizes[1]) / (sizes[1] - sizes[0]))

    print(f"{'seconds':<28}{sizes[0]:>10,}{sizes[1]:>10,}{'1.1 million':>24}")
    full = {stage: line(small["seconds"][stage], seconds) for stage, seconds in large["seconds"].items()}
    full["in all"] = sum(seconds for stage, seconds in full.items() if stage != "in all")
    for stage, seconds in full.items():
        print(f"{stage:<28}{small['seconds'][stage]:>10.1f}{large['seconds'][stage]:>10.1f}{seconds / 60:>20.1f} min")
    memory = line(small["peak_memory_gb"], large["peak_memory_gb"])
    print(f"{'peak memory, GB':<28}{small['peak_memory_gb']:>10.2f}{large['peak_memory_gb']:>10.2f}{memory:>24.2f}")
    calculated = {"seconds": {stage: round(value) for stage, value in full.items()}, "memory_gb": round(memory, 2)}
    return {"measured": [small, large], f"calculated_{SUBJECTS}_subjects": calculated}


def main() -> None:
    """Print the table and the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", help="an existing data set instead of phantoms")
    parser.add_argument("--workspace", help="folder of the model of its images, and of finished stages")
    parser.add_argument("--known", action="store_true", help="also with the true population, as a check")
    parser.add_argument("--foce", action="store_true", help="use the estimates of FOCE")
    parser.add_argument("--resnet", type=int, default=0, metavar="STEPS", help="train the published ResNet18 too")
    parser.add_argument("--levels", type=float, nargs="+", help="some levels of the data set; all by default")
    parser.add_argument("--cost", action="store_true", help="cost by number of subjects")
    parser.add_argument("--full", action="store_true", help="with --cost: measure 1.1 million subjects")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    result = {
        "benchmark": "evaluation_cost" if options.cost else "evaluation",
        "workers": options.workers,
        **(cost(options) if options.cost else compare(options)),
    }
    print_result(("numpy", "numba", "prefect"), result)


if __name__ == "__main__":
    main()
