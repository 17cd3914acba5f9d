"""What an evaluation costs per stage as subjects become more, and what that makes for 1.1 million.

    python -m benchmarks.evaluation_cost            10,000 and 100,000 subjects, phantoms at 32x32, five levels
    python -m benchmarks.evaluation_cost --quick    2,000 and 10,000
    python -m benchmarks.evaluation_cost --full     1.1 million subjects, measured, at the level 0.5 alone

One in eleven subjects is a test subject, as in the published data set. The figures for 1.1 million subjects are
straight lines through the two sizes, a calculation; ``--full`` measures.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.evaluation import PACKAGES, command, stage_seconds
from benchmarks.report import argument_parser, print_result

SUBJECTS = 1_100_000


def measured(n: int, workers: int, levels: str = "[1.0, 0.5, 0.1, 0.0526, 0.02]") -> dict[str, Any]:
    """Seconds by stage and peak memory in GB of the evaluation of ``n`` phantom subjects at association ``levels``."""
    with tempfile.TemporaryDirectory() as folder:
        data, workspace = f"{folder}/data", f"{folder}/workspace"
        settings = (
            "generator.backend=phantom", "generator.image_size=32", f"dataset.n_subjects={n}",
            f"dataset.association={levels}", "dataset.shard_size=2000", "dataset.validation_fraction=0",
            f"dataset.test_fraction={1 / 11}", f"compute.concurrent_shards={workers}",
        )  # fmt: skip
        changes = [argument for setting in settings for argument in ("--set", setting)]
        command(folder, "generate", "--output", data, "--workspace", workspace, *changes)
        began = time.time()
        seconds, memory = command(
            folder, "evaluate", data, "--output", f"{folder}/out", "--workspace", workspace, "--workers", str(workers),
            "--set", "evaluation.resnet.steps=0",
        )  # fmt: skip
        return {
            "subjects": n,
            "seconds": stage_seconds(Path(workspace), began),
            "seconds_total": round(seconds, 1),
            "peak_memory_gb": round(memory, 3),
        }


def line(small: float, large: float, sizes: tuple[int, int], at: int = SUBJECTS) -> float:
    """The value at ``at`` of the straight line through two sizes, not below that at the larger."""
    return max(large, large + (large - small) * (at - sizes[1]) / (sizes[1] - sizes[0]))


def main() -> None:
    """Print the table and the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    about = {"benchmark": "evaluation_cost", "workers": options.workers}
    if options.full:
        whole = measured(SUBJECTS, options.workers, "[0.5]")
        for stage, seconds in whole["seconds"].items():
            print(f"{stage:<28}{seconds / 60:>10.1f} min")
        print(f"{'in all':<28}{whole['seconds_total'] / 60:>10.1f} min, peak {whole['peak_memory_gb']:.2f} GB")
        print_result(PACKAGES, {**about, "measured": [whole]})
        return
    sizes = (2_000, 10_000) if options.quick else (10_000, 100_000)
    small, large = (measured(n, options.workers) for n in sizes)
    print(f"{'seconds':<28}{sizes[0]:>10,}{sizes[1]:>10,}{'1.1 million':>24}")
    full = {}
    for stage, seconds in large["seconds"].items():
        full[stage] = line(small["seconds"][stage], seconds, sizes)
        print(f"{stage:<28}{small['seconds'][stage]:>10.1f}{seconds:>10.1f}{full[stage] / 60:>20.1f} min")
    memory = line(small["peak_memory_gb"], large["peak_memory_gb"], sizes)
    print(f"{'in all':<28}{small['seconds_total']:>10.1f}{large['seconds_total']:>10.1f}", end="")
    print(f"{sum(full.values()) / 60:>20.1f} min")
    print(f"{'peak memory, GB':<28}{small['peak_memory_gb']:>10.2f}{large['peak_memory_gb']:>10.2f}{memory:>24.2f}")
    result = {
        **about,
        "measured": [small, large],
        "calculated_1100000_subjects": {
            "seconds_by_stage": {stage: round(seconds) for stage, seconds in full.items()},
            "seconds_total": round(sum(full.values())),
            "peak_memory_gb": round(memory, 2),
        },
    }
    print_result(PACKAGES, result)


if __name__ == "__main__":
    main()
