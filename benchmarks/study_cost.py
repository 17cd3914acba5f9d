"""CPU seconds of the whole command ``generate`` with a study of two arms over those without: used by
``benchmarks.designs``.

Child processes are counted, but Prefect's temporary server, which outlives the command for a moment. Each is run with
images that it makes and with images that an earlier run has made, which are reused.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SETTINGS = (
    "generator.backend=phantom", "generator.image_size=32", "dataset.shard_size=2000", "dataset.association=[0.5]",
    "compute.concurrent_shards=2",
)  # fmt: skip
ROUNDS = 2  # of which the least counts: other work on the machine makes a run dearer, never cheaper


def command_cost(n: int, arms: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Least CPU seconds of a data set of ``n`` subjects: plain and with these arms, images made and reused."""
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="study-cost-", ignore_cleanup_errors=True) as name:
        work, study = Path(name), f"study.arms={json.dumps(arms)}"
        _generate(work, 64, 0, study)  # creates Prefect's database and compiles
        for turn in range(ROUNDS):
            for first in (False, True):  # which makes the images that the other reuses
                seed = 1 + 2 * turn + first
                for reused, with_arms in enumerate((first, not first)):
                    seconds = _generate(work, n, seed, *([study] if with_arms else []))
                    found[f"{'study' if with_arms else 'plain'}{'_images_reused' if reused else ''}"].append(seconds)
    return {f"{name}_command_seconds": min(seconds) for name, seconds in found.items()}


def _generate(work: Path, n: int, seed: int, *study: str) -> float:
    """CPU seconds of one command."""
    output = tempfile.mkdtemp(dir=work)
    settings = [*SETTINGS, f"dataset.n_subjects={n}", f"seed={seed}", *study]
    command = [sys.executable, "-m", "image_longitudinal.cli.app", "generate", "--output", f"{output}/data"]
    command += ["--workspace", str(work / "workspace"), *(part for one in settings for part in ("--set", one))]
    environment = os.environ | {"PREFECT_HOME": str(work / "prefect"), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
