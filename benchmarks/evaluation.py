"""How much of what the images hold each predictor finds, and what an evaluation costs, stage by stage.

    python -m benchmarks.evaluation              50,000 training and 5,000 test subjects, phantoms at 64x64
    python -m benchmarks.evaluation --quick      4,000 and 1,000
    python -m benchmarks.evaluation --data URL   a data set that is there; --workspace holds the model of its images
    ... --known                                  also with the true population, which must give the same table
    ... --foce                                   the fit left where FOCE ends
    ... --resnet 20000                           also the published ResNet18, at most so many steps a level
    ... --levels 0.02                            some levels of the data set

Makes a phantom data set by the command line, evaluates it by the command line, and reads what that wrote. Shares are
of the realised ceiling: R² of E[η | z] on the same test subjects.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.report import argument_parser, print_result
from image_longitudinal.storage.io.open import open_root

PACKAGES = ("numpy", "numba", "prefect")
STAGES = {
    "reader.json": "read images",
    "population.json": "fit population",
    "informed.json": "predict effects",
    "scores.json": "score",
    "checks.json": "design against truth",
    "null.json": "null check",
    "resnet.npy": "train ResNet18",
}
BARS = {1.0: (60, 95), 0.5: (60, 95), 0.1: (54, 90), 0.0526: (52, 85), 0.02: (32, 75)}  # for (a) and (b), percent
DIFFUSION_BARS = {1.0: 85, 0.5: 85, 0.1: 80, 0.0526: 70, 0.02: 50}  # for (b) on images of a trained small model
HEADS = {
    "regression": "(a) regression", "resnet": "(a) ResNet18", "informed": "(b) informed", "one_step": "(c) one step",
    "oracle": "(d) oracle",
}  # fmt: skip


def command(folder: str, *arguments: str) -> tuple[float, float]:
    """Seconds and peak memory in GB of one command of the console script, in a Prefect home of its own."""
    environment = {**os.environ, "PREFECT_HOME": f"{folder}/prefect"}
    began = time.perf_counter()
    with open(f"{folder}/log", "wb") as log:
        full = [sys.executable, "-m", "image_longitudinal.cli.app", *arguments]
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
        if end < began:  # of an earlier evaluation
            continue
        names = {file.name for file in folder.iterdir()}
        name = next((STAGES[mark] for mark in STAGES if mark in names), "empirical Bayes estimates")
        seconds[name] = seconds.get(name, 0.0) + end - began
        began = end
    return {name: round(value, 1) for name, value in seconds.items()}


def phantoms(folder: str, workspace: str, quick: bool, workers: int) -> tuple[str, float]:
    """A phantom data set, its address and the seconds it took."""
    train, test = (4_000, 1_000) if quick else (50_000, 5_000)
    settings = [
        "generator.backend=phantom", "generator.image_size=64", f"dataset.n_subjects={train + test}",
        "dataset.shard_size=1000", "dataset.validation_fraction=0", f"compute.concurrent_shards={workers}",
        f"dataset.test_fraction={test / (train + test)}",
    ]  # fmt: skip
    changes = [argument for setting in settings for argument in ("--set", setting)]
    seconds, _ = command(folder, "generate", "--output", f"{folder}/data", "--workspace", workspace, *changes)
    return f"{folder}/data", seconds


def differences(fitted: list[dict[str, Any]], known: list[dict[str, Any]]) -> list[str]:
    """Where the R² of a source lies outside the 95 % interval that the other population gives, in words."""
    found = []
    for one, other in zip(fitted, known, strict=True):
        for name, scores in other["effects"].items():
            (a, low_a, high_a), (b, low_b, high_b) = one["effects"][name]["r2"], scores["r2"]
            if not (low_b <= a <= high_b and low_a <= b <= high_a):
                found.append(f"{name} at {one['level']:g}: {a:.4f} [{low_a:.4f}, {high_a:.4f}] fitted, {b:.4f} known")
    return found


def print_shares(levels: list[dict[str, Any]], backend: str) -> dict[str, dict[str, float]]:
    """A line per level; shares of the realised ceiling in percent by level and predictor."""
    names = [name for name in HEADS if name in levels[0]["effects"]]
    print(f"{'level':>8}" + "".join(f"{HEADS[name]:>20}" for name in names) + f"{'b / oracle':>12}")
    shares = {}
    for level in levels:
        of = {name: 100 * level["effects"][name]["of_realised"][0] for name in names}
        published, own = BARS[level["level"]]
        bars = {"regression": published, "resnet": published, "informed": own}
        if backend != "phantom":
            bars = {"informed": DIFFUSION_BARS[level["level"]]}
        cells = (f"{of[name]:.1f}" + (f" (bar {bars[name]})" if name in bars else "") for name in names)
        print(f"{level['level']:>8g}" + "".join(f"{c:>20}" for c in cells) + f"{of['informed'] / of['oracle']:>12.3f}")
        shares[str(level["level"])] = {name: round(value, 2) for name, value in of.items()}
    return shares


def main() -> None:
    """Print the table and the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--data", help="a data set that is there, in place of phantoms")
    parser.add_argument("--workspace", help="where the model of its images lies, and finished stages")
    parser.add_argument("--known", action="store_true", help="evaluate with the true population too")
    parser.add_argument("--foce", action="store_true", help="take the fit of FOCE as it is")
    parser.add_argument("--resnet", type=int, default=0, metavar="STEPS", help="train the published ResNet18 too")
    parser.add_argument("--levels", type=float, nargs="+", help="some levels of the data set; without it, all")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace, generated = options.workspace or f"{folder}/workspace", 0.0
        url = options.data
        if url is None:
            url, generated = phantoms(folder, workspace, options.quick, options.workers)
        manifest = json.loads(open_root(url).read_bytes("dataset.json"))

        def evaluated(population: str, steps: int = 0) -> tuple[dict[str, Any], float, float]:
            settings = [f"population={population}", f"resnet.steps={steps}", "resnet.width=1"]
            if options.levels:
                settings.append(f"levels={options.levels}")
            changes = [argument for setting in settings for argument in ("--set", f"evaluation.{setting}")]
            output = f"{folder}/{population}"
            seconds, memory = command(
                folder, "evaluate", url, "--output", output, "--workspace", workspace, "--workers",
                str(options.workers), *changes,
            )  # fmt: skip
            return json.loads(Path(output, "evaluation.json").read_text()), seconds, memory

        began = time.time()
        figures, seconds, memory = evaluated("foce" if options.foce else "likelihood", options.resnet)
        stages = stage_seconds(Path(workspace), began)
        known = evaluated("known")[0] if options.known else None
    train, test, backend = manifest["splits"]["train"], manifest["splits"]["test"], manifest["image"]["backend"]
    print(
        f"{train:,} training and {test:,} test subjects, {manifest['image']['backend']} images; % of realised ceiling"
    )
    shares = print_shares(figures["levels"], manifest["image"]["backend"])
    apart = differences(figures["levels"], known["levels"]) if known else None
    if known and apart is not None:
        print("with the true population")
        print_shares(known["levels"], backend)
        of = sum(len(level["effects"]) for level in known["levels"])
        print(f"R² inside each other's 95 % interval: {of - len(apart)} of {of}")
        for line in apart:
            print(f"  outside: {line}")
    for name, value in stages.items():
        print(f"{name:<28}{value:8.1f} s")
    print(f"{'evaluation in all':<28}{seconds:8.1f} s, peak {memory:.2f} GB; the data set took {generated:.0f} s")
    result = {
        "benchmark": "evaluation",
        "workers": options.workers,
        "backend": backend,
        "population": "foce" if options.foce else "likelihood",
        "training_subjects": train,
        "test_subjects": test,
        "share_of_ceiling_percent": {
            name: {level: one[key] for level, one in shares.items()}
            for name, key in (("a", "regression"), ("b", "informed"))
        },
        "share_of_oracle_percent": {
            level: round(100 * one["informed"] / one["oracle"], 2) for level, one in shares.items()
        },
        "resnet_percent": {level: one["resnet"] for level, one in shares.items()} if options.resnet else None,
        "differs_with_known_population": apart,
        "checks_passed": all(check["passed"] for check in figures["checks"]),
        "null_r2": {name: round(one["value"], 5) for name, one in figures["null"]["r2"].items()},
        "seconds_by_stage": stages,
        "seconds_total": round(seconds, 1),
        "peak_memory_gb": round(memory, 3),
        "seconds_generation": round(generated, 1) or None,
    }  # fmt: skip
    print_result(PACKAGES, result)


if __name__ == "__main__":
    main()
