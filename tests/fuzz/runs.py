"""The run that faults strike, each time in a new process that is forked from one in which everything is imported.

The run trains, registers, generates and publishes at the smallest size, as ``image-longitudinal generate`` does, and
saves a checkpoint at every step. Its process has :mod:`file_calls.c` preloaded.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from image_longitudinal.core.digest import file_sha256
from image_longitudinal.core.files import is_temporary
from image_longitudinal.storage.dataset.layout import LEASE
from tests.paths import ROOT

POINTS = int(os.environ.get("FUZZ_POINTS", "8"))  # faults of each kind; more find more, at some seconds each
KILL, REFUSED, BROKEN = -9, 3, 4  # exit statuses: killed; ended by an error of ours; by another error
FAULTS = {"kill": -1, "EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT}
CONFIG = {
    "images": {"n_phantoms": 60, "min_images": 20},
    "vae": {"kind": "convolutional", "image_size": 32, "latent_dim": 4, "width": 0.1, "steps": 4, "batch_size": 8,
            "kl_warmup_steps": 2,
            "validate_every": 2},
    "diffusion": {"kind": "residual", "image_size": 32, "channels": [16], "steps": 3, "batch_size": 8,
                  "validate_every": 2},
    "probe": {"n_images": 64, "scheduler": "whitened", "steps": 2},
    "generator": {"scheduler": "whitened", "steps": 2, "batch_size": 8},
    "dataset": {"n_subjects": 20, "shard_size": 8},
    "gates": {"latents": -1e6, "recoverability": -1e6, "fidelity": 1e6, "copies": 1},  # nothing is learned in seconds
    "compute": {"training_threads": 1},
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run in ``folder``: ``fault`` strikes the file calls from ``first`` to ``last``; 0 for none.

    With ``cuts``, the moments of the run (:func:`tests.power_cuts.recorded`) are pickled to that file.
    """

    folder: str
    fault: str = "kill"
    first: int = 0
    last: int = 0
    cuts: str | None = None


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit status, file calls (0 if it was killed), and what it printed."""

    status: int
    calls: int
    output: str


class Runs:
    """The process that forks runs."""

    def __init__(self, folder: Path, api_url: str) -> None:
        self.folder = folder
        library = folder / "file_calls.so"
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
        assert compiler, "make fuzz needs a C compiler"
        source = str(Path(__file__).with_name("file_calls.c"))
        command = [compiler, "-shared", "-fPIC", "-O1", "-D_LARGEFILE64_SOURCE", "-o", str(library), source, "-ldl"]
        subprocess.run(command, check=True)
        environment = {
            **os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT), "PREFECT_API_URL": api_url,
            "PREFECT_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1", "PREFECT_LOGGING_TO_API_ENABLED": "false",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.runs", str(library)], env=environment, cwd=folder, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip

    def run(self, job: Job) -> Ended:
        """Run a job to its end."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(asdict(job)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the process that forks runs has ended"
        return Ended(**json.loads(answer))

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)


def result(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the data set and of the registered models in a run's folder.

    Not of the run's lock: one that a power cut left behind in a published data set holds nobody up and stays.
    """
    files = [path for part in ("data", "workspace/models") for path in sorted((folder / part).rglob("*"))]
    inside = [(path, path.relative_to(folder)) for path in files if path.is_file() and path.name != LEASE]
    return {str(name): file_sha256(path) for path, name in inside if not any(map(is_temporary, name.parts))}


def points(calls: int, seed: int, n: int = POINTS) -> list[int]:
    """Numbers of file calls, one at random from each of ``n`` equal parts of a run."""
    chosen, width = random.Random(seed), calls / n
    return [int(part * width + chosen.random() * width) + 1 for part in range(n)]


def main() -> None:
    """Fork a run for every job on standard input; print how it ended."""
    import ctypes

    library = ctypes.CDLL(sys.argv[1])
    library.fuzz_count.restype = ctypes.c_long
    _import_everything()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        job = Job(**json.loads(line))
        read, write = os.pipe()
        output = f"{job.folder}.log"
        if (child := os.fork()) == 0:
            os.close(read)
            log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            status = BROKEN
            try:
                status = _run(job, library)
                os.write(write, str(library.fuzz_count()).encode())
            finally:
                sys.stdout.flush()
                os._exit(status)
        os.close(write)
        calls = int(os.read(read, 64) or 0)
        os.close(read)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        ended = Ended(status, calls, Path(output).read_text(encoding="utf-8", errors="replace")[-4000:])
        print(json.dumps(asdict(ended)), file=answers, flush=True)


def _import_everything() -> None:
    from image_longitudinal.tasks.engine.prefect_setup import configure_prefect

    configure_prefect()
    import diffusers  # noqa: F401
    import transformers  # noqa: F401

    from image_longitudinal.flows import generate_dataset  # noqa: F401


def _run(job: Job, library: Any) -> int:
    import traceback

    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

    from image_longitudinal.core.config import Config
    from image_longitudinal.core.errors import ImageLongitudinalError
    from image_longitudinal.core.presets import load_config
    from image_longitudinal.flows.generate_dataset import generate_dataset
    from image_longitudinal.models.training import loop
    from tests.power_cuts import recorded

    loop.CHECKPOINT_SECONDS = 0.0
    folder = Path(job.folder)
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    base = load_config("demo").model_dump(mode="json")
    config = Config.model_validate({name: {**base[name], **CONFIG.get(name, {})} if isinstance(base[name], dict)
                                    else base[name] for name in base})  # fmt: skip
    library.fuzz_arm(str(folder).encode(), job.first, job.last, FAULTS[job.fault])
    try:
        with (
            temporary_settings({PREFECT_LOCAL_STORAGE_PATH: folder / "results"}),
            recorded(folder) if job.cuts else nullcontext([]) as cuts,
        ):
            generate_dataset("data", config=config, workspace="workspace")
    except ImageLongitudinalError as error:
        print(f"error: {error}")
        return REFUSED
    except BaseException:
        traceback.print_exc()
        return BROKEN
    if job.cuts:
        Path(job.cuts).write_bytes(pickle.dumps(cuts))
    return 0


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long the body took."""
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
