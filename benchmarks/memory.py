"""Peak memory of generate-dataset at n subjects and at 8n: it must not grow with the population.

Command: python -m benchmarks.memory            (20,000 and 160,000 subjects, 32x32 phantom images; about 3 minutes)
         python -m benchmarks.memory --quick    (4,000 and 32,000 subjects; about 1 minute)

Each size runs in a separate process with its own Prefect home; the figure is the operating system's peak resident set
of the largest process, which makes images, outcomes and report.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import argument_parser, print_result

FACTOR = 8


def measure(n: int) -> tuple[float, float]:
    """Peak memory in GB and seconds of generating a data set of ``n`` subjects."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [
            "generator.backend=phantom",
            "generator.image_size=32",
            f"dataset.n_subjects={n}",
            "dataset.shard_size=1000",
        ]
        command = [str(Path(sys.executable).with_name("image-longitudinal")), "generate", "--output", "data"]
        command += [argument for setting in settings for argument in ("--set", setting)]
        environment = {**os.environ, "PREFECT_HOME": f"{folder}/prefect"}
        began = time.perf_counter()
        with open(f"{folder}/log", "wb") as log:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(Path(folder, "log").read_text()[-2000:])
        return usage.ru_maxrss / 1e6, time.perf_counter() - began


def main() -> None:
    """Print the table and the result line."""
    base = 4_000 if argument_parser(__doc__).parse_args().quick else 20_000
    print(f"{'subjects':>10} {'peak GB':>8} {'seconds':>8}")
    figures = []
    for n in (base, FACTOR * base):
        memory, seconds = measure(n)
        figures.append((n, memory, seconds))
        print(f"{n:>10,} {memory:>8.3f} {seconds:>8.1f}", flush=True)
    growth = figures[1][1] / figures[0][1]
    print(f"peak memory at {FACTOR}x the subjects: {growth:.3f} of that at 1x")
    result = {
        "subjects": [row[0] for row in figures],
        "peak_memory_gb": [round(row[1], 4) for row in figures],
        "memory_growth": round(growth, 4),
        "seconds": [round(row[2], 1) for row in figures],
    }
    print_result(("prefect", "pyarrow", "torch", "zarr"), result)


if __name__ == "__main__":
    main()
