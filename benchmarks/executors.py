"""The ways to generate shards in parallel, compared: rate, fixed cost, memory, and what one killed process costs.

Command: python -m benchmarks.executors                   (about 15 minutes on two quiet cores)
         python -m benchmarks.executors --quick           (about 5 minutes: fewer shards)
         python -m benchmarks.executors --shards 10000    (only so many small shards: the cost of the machinery)

Every way generates the same data sets by the command ``generate``, two shards at a time, against one Prefect server
that runs meanwhile: few and many small phantom shards, where the cost of the machinery shows, and shards by the bundled
model, where rendering takes most of the time. The last is also generated while one rendering process is killed
(SIGKILL) after a third of the shards: with threads the command itself, which is then given again.

CPU seconds, of command, workers and server together, hardly depend on what else the machine does; wall times do.
"""

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import psutil

from benchmarks.report import argument_parser, print_result
from image_longitudinal.core.files import is_temporary

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 2  # shards at a time, in every way
EXECUTORS = {
    "threads": [],
    "processes": [f"compute.render_processes={WIDTH}"],
    "work-pool": ["compute.executor=work-pool"],
}
PHANTOM = ["generator.backend=phantom", "generator.image_size=32", "dataset.shard_size=16", "probe.n_images=64"]
MODEL = ["--model", "pretrained", "--preset", "scans"]
PRETRAINED = ["dataset.shard_size=32", "probe.n_images=64"]
SAMPLE_SECONDS = 2.0  # between two looks at memory
COLUMNS = (
    "fixed CPU s", "fixed s", "CPU s per shard", "shards/s", "peak MB", "server MB", "model: CPU s",
    "model: shards/s", "model: peak MB", "loss: s", "loss: shards",
)  # fmt: skip
LIMIT_SECONDS = 900.0  # of one data set


@dataclass(frozen=True)
class Measured:
    """One data set by one executor: CPU seconds, wall seconds, rate between the first shard and the last, peak memory.

    ``peak_mb`` is that of the command and its workers together, ``server_mb`` that of the server.
    """

    cpu_seconds: float
    wall_seconds: float
    shards_per_second: float
    peak_mb: float
    server_mb: float


@dataclass(frozen=True)
class Loss:
    """One killed process: seconds until what it was rendering was there, and shards begun more than once."""

    seconds: float
    shards_again: int


class Watch:
    """Watches processes and a data set from another thread: peak memory, and image shards that were begun."""

    def __init__(self, output: Path | None, *roots: int) -> None:
        self.peak, self.begun = 0, set[str]()  # bytes; temporary names, of which every attempt has its own
        self._images = output / "images.zarr" / "image" / "c" if output else None
        self._roots, self._stop = set(roots), threading.Event()
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._memory, self._files)]
        for thread in self._threads:
            thread.start()

    def add(self, root: int) -> None:
        """Watch the memory of another process and of those that it starts."""
        self._roots.add(root)

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _memory(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            total = 0
            for process in below(*self._roots):
                with suppress(psutil.Error):
                    total += process.memory_full_info().pss  # shared pages are counted once
            self.peak = max(self.peak, total)

    def _files(self) -> None:
        while self._images and not self._stop.wait(0.01):
            with suppress(OSError):
                for folder, _, names in os.walk(self._images):
                    self.begun.update(os.path.join(folder, name) for name in names if is_temporary(name))


class Bench:
    """The server, its workers and the folder of all data sets."""

    def __init__(self, home: Path) -> None:
        self.home, self.started, self.seed = home, list[subprocess.Popen[bytes]](), 0
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment = {
            **kept, "PREFECT_HOME": str(home / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PYTHONPATH": str(ROOT),
            "HEAVY_POOL": "cpu",
        }  # fmt: skip

    def begin(self) -> None:
        """Start the server, with everything deployed."""
        port = self.environment["PREFECT_API_URL"].partition("127.0.0.1:")[2].partition("/")[0]
        self.server = self.start("image_longitudinal.deployments.server", "--host", "127.0.0.1", "--port", str(port))
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/api/health"), 180)
        command = [sys.executable, "-m", "image_longitudinal.deployments.deploy"]
        subprocess.run(command, cwd=ROOT, env=self.environment, check=True, capture_output=True)

    def start(self, *module: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a Python module with its arguments; it ends with the benchmark at the latest."""
        with open(self.home / "log.txt", "ab") as log:
            self.started.append(subprocess.Popen(
                [sys.executable, "-m", *module], cwd=ROOT, env=self.environment | environment, stdout=log, stderr=log
            ))  # fmt: skip
        return self.started[-1]

    def stop(self, *some: subprocess.Popen[bytes]) -> None:
        """Kill these processes, or all, with those that they started."""
        for process in some or tuple(reversed(self.started)):
            kill(*below(process.pid))
            process.wait()
            self.started.remove(process)

    @contextmanager
    def workers(self, executor: str) -> Iterator[list[subprocess.Popen[bytes]]]:
        """What people start before the command, where an executor needs it."""
        one = {"OMP_NUM_THREADS": "1"}  # one worker per core
        command = ("prefect", "worker", "start", "--pool", "shards", "--type", "process", "--limit", "1")
        workers = [self.start(*command, **one) for _ in range(WIDTH if executor == "work-pool" else 0)]
        if workers:
            time.sleep(15)  # until they poll
        yield workers
        if workers:
            self.stop(*workers)

    def new_output(self, executor: str) -> Path:
        """A new folder for a data set with another seed: nothing is found among earlier results."""
        self.seed += 1
        return self.home / f"{executor}-{self.seed}"

    def generate(self, output: Path, model: list[str], overrides: list[str]) -> subprocess.Popen[bytes]:
        """Start the command that generates a data set."""
        sets = [f"--set={one}" for one in (*overrides, f"seed={self.seed}")]
        workspace = str(self.home / "workspace")
        arguments = ("generate", "--output", str(output), "--workspace", workspace, *model, *sets)
        return self.start("image_longitudinal.cli.app", *arguments)

    def measure(self, executor: str, model: list[str], overrides: list[str], shards: int) -> Measured:
        """Generate a data set undisturbed."""
        output = self.new_output(executor)
        with self.workers(executor) as workers:
            others = [self.server, *workers]
            before, began = sum(map(cpu_seconds, others)), time.time()
            command = self.generate(output, model, [*overrides, *EXECUTORS[executor]])
            watch, server = Watch(None, command.pid, *(one.pid for one in workers)), Watch(None, self.server.pid)
            own = self.finish(command, output)
            wall, cpu = time.time() - began, own + sum(map(cpu_seconds, others)) - before
            watch.close()
            server.close()
        times = sorted(path.stat().st_mtime for path in (output / "shards").iterdir())
        return Measured(cpu, wall, (shards - 1) / (times[-1] - times[0]), watch.peak / 1e6, server.peak / 1e6)

    def measure_loss(self, executor: str, model: list[str], overrides: list[str], shards: int) -> Loss:
        """Generate a data set and kill one of the processes that render after a third of the shards."""
        output = self.new_output(executor)
        with self.workers(executor) as workers:
            chosen = [*overrides, *EXECUTORS[executor]]
            command = self.generate(output, model, chosen)
            watch = Watch(output)
            wait_for(lambda: made(output) >= shards // 3 and rendering(output), LIMIT_SECONDS, every=0.02)
            kill(*self.victims(executor, command, workers))
            killed, lost = time.time(), rendering(output)
            if executor == "threads":
                command.wait()
                self.started.remove(command)
                command = self.generate(output, model, chosen)
            self.finish(command, output)
            watch.close()
        there = max((output / "shards" / f"{index:05}.json").stat().st_mtime for index in lost)
        return Loss(there - killed, len(watch.begun) - shards)

    def victims(
        self, executor: str, command: subprocess.Popen[bytes], workers: list[subprocess.Popen[bytes]]
    ) -> list[psutil.Process]:
        """The processes that are lost: one that renders, with its worker if it has one."""
        if executor == "threads":
            return below(command.pid)
        if workers:
            return below(workers[-1].pid)
        # Rendering processes are spawned by Python.
        spawned = [one for one in below(command.pid) if any("spawn_main" in part for part in one.cmdline())]
        return [max(spawned, key=lambda one: sum(one.cpu_times()[:2]))]

    def finish(self, command: subprocess.Popen[bytes], output: Path) -> float:
        """Wait for a command that must succeed; returns the CPU seconds of its processes."""
        _, status, usage = os.wait4(command.pid, 0)
        command.returncode = os.waitstatus_to_exitcode(status)
        self.started.remove(command)
        if status or not (output / "dataset.json").exists():
            raise SystemExit(f"{output.name} failed:\n" + (self.home / "log.txt").read_text(encoding="utf-8")[-4000:])
        return usage.ru_utime + usage.ru_stime


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds so far of a process, those that it started, and those of them that have ended."""
    return sum(sum(one.cpu_times()[:4]) for one in below(process.pid))


def rendering(output: Path) -> set[int]:
    """Shards whose images are being written."""
    names = (output / "images.zarr" / "image" / "c").rglob(".*")
    return {int(path.relative_to(output).parts[3]) for path in names if is_temporary(path.name)}


def below(*roots: int) -> list[psutil.Process]:
    """Processes with all that they started."""
    found = []
    for root in roots:
        with suppress(psutil.Error):
            found += [*psutil.Process(root).children(recursive=True), psutil.Process(root)]
    return found


def kill(*processes: psutil.Process) -> None:
    """SIGKILL."""
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)


def made(output: Path) -> int:
    """Finished shards."""
    return len(list((output / "shards").glob("*.json"))) if (output / "shards").is_dir() else 0


def answers(url: str) -> bool:
    """Whether the server is up."""
    with suppress(OSError):
        return bool(urlopen(url, timeout=5).status == 200)  # noqa: S310 - our own server
    return False


def wait_for(condition: Callable[[], object], seconds: float, every: float = 0.5) -> None:
    """Wait until a condition is true."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise SystemExit("a condition did not become true in time")
        time.sleep(every)


def main() -> None:
    """Print the table and the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--only", nargs="*", choices=list(EXECUTORS), default=list(EXECUTORS))
    parser.add_argument("--shards", type=int, help="only so many small shards")
    arguments = parser.parse_args()
    few, many, rendered = (4, 40, 10) if arguments.quick else (8, 200, 48)
    if arguments.shards:
        many, rendered = arguments.shards, 0
    figures: dict[str, dict[str, float]] = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # runs what is below ``finally``
    home = Path(tempfile.mkdtemp(prefix="executors-"))
    bench = Bench(home)
    try:
        bench.begin()
        print("executor            " + "".join(f"{name:>18}" for name in COLUMNS), flush=True)
        for executor in arguments.only:
            figures[executor] = compare(bench, executor, few, many, rendered)
            cells = (f"{figures[executor].get(name, math.nan):>18.3g}" for name in COLUMNS)
            print(f"{executor:<20}" + "".join(cells), flush=True)
    finally:
        bench.stop()
        shutil.rmtree(home, ignore_errors=True)
    print_result(
        ("prefect", "torch"),
        {name: {key: round(value, 3) for key, value in row.items()} for name, row in figures.items()},
    )


def compare(bench: Bench, executor: str, few: int, many: int, rendered: int) -> dict[str, float]:
    """The figures of one executor, by the names of :data:`COLUMNS`."""

    def overrides(shards: int, size: int) -> list[str]:
        return [f"dataset.n_subjects={shards * size}", f"compute.concurrent_shards={WIDTH}"]

    small = [bench.measure(executor, [], [*PHANTOM, *overrides(count, 16)], count) for count in (few, many)]
    per_shard = (small[1].cpu_seconds - small[0].cpu_seconds) / (many - few)
    found = {
        "fixed CPU s": small[0].cpu_seconds - few * per_shard,
        "fixed s": small[1].wall_seconds - many / small[1].shards_per_second,
        "CPU s per shard": per_shard,
        "shards/s": small[1].shards_per_second,
        "peak MB": small[1].peak_mb,
        "server MB": small[1].server_mb,
    }
    if not rendered:
        return found
    large = [*PRETRAINED, *overrides(rendered, 32)]
    whole = bench.measure(executor, MODEL, large, rendered)
    loss = bench.measure_loss(executor, MODEL, large, rendered)
    return found | {
        "model: CPU s": whole.cpu_seconds,
        "model: shards/s": whole.shards_per_second,
        "model: peak MB": whole.peak_mb,
        "loss: s": loss.seconds,
        "loss: shards": loss.shards_again,
    }


if __name__ == "__main__":
    main()
