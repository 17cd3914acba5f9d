"""Bits flipped in every file of a data set and of a workspace: each flip is noticed or harmless, none a wrong number.

``FLIPS`` in the environment is the number of bits for each file (40), ``FLIPS_SEED`` chooses them.
"""

import os
import random
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from image_longitudinal.core.clean_scan import CleanScan
from image_longitudinal.core.config import Config
from image_longitudinal.core.errors import ImageLongitudinalError
from image_longitudinal.flows.generate_dataset import generate_dataset
from image_longitudinal.flows.train_models import train_models
from image_longitudinal.models.registry.gates import read_gates
from image_longitudinal.models.training.tensor_files import load_checked
from image_longitudinal.storage.dataset.layout import TABLES
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.scans.frame_cache import FrameCache
from image_longitudinal.storage.scans.prepared import open_prepared
from image_longitudinal.tasks.training.networks import TrainedNetwork
from image_longitudinal.tasks.workspace import Workspace
from tests.e2e.conftest import digests, prefect_server, tiny, tiny_file

__all__ = ["prefect_server", "tiny", "tiny_file"]  # fixtures

pytestmark = pytest.mark.usefixtures("prefect_server")

FLIPS, SEED = int(os.environ.get("FLIPS", "40")), os.environ.get("FLIPS_SEED", "2410.16177")


class Home(NamedTuple):
    """A workspace with trained models, and a data set of them."""

    workspace: Path
    data: Path
    config: Config

    def generate(self) -> None:
        generate_dataset(str(self.data), config=self.config, workspace=str(self.workspace))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Config], prefect_server: None) -> Home:
    folder = tmp_path_factory.mktemp("flips")
    settings = ("seed=77", "dataset.n_subjects=24", "dataset.shard_size=8", "dataset.association=[1.0, 0.5]",
                "vae.validate_every=10")  # fmt: skip
    made = Home(folder / "workspace", folder / "data", tiny(*settings))
    made.generate()
    return made


def flips(path: Path) -> Iterator[int]:
    """Flip one bit of a file at a time, and put the file back."""
    good = path.read_bytes()
    chosen = random.Random(f"{SEED} {path.name}")
    try:
        for bit in chosen.sample(range(8 * len(good)), min(FLIPS, 8 * len(good))):
            damaged = bytearray(good)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            yield bit
    finally:
        path.write_bytes(good)


class Table:
    """Outcomes by kind of file."""

    def __init__(self) -> None:
        self.counts = dict[str, Counter[str]]()

    def add(self, kind: str, outcome: str) -> None:
        self.counts.setdefault(kind, Counter())[outcome] += 1

    def show(self, title: str, outcomes: tuple[str, ...]) -> None:
        print(f"\n\n{title}\n| file | flips | {' | '.join(outcomes)} |\n|---|{'---|' * (1 + len(outcomes))}")
        for kind, counts in sorted(self.counts.items()):
            print(f"| {kind} | {counts['flips']} | {' | '.join(str(counts[one]) for one in outcomes)} |")

    def total(self, outcome: str) -> int:
        return sum(counts[outcome] for counts in self.counts.values())


def kind_of(path: Path) -> str:
    """A file's name without numbers and digests: files of one kind are one row of the table."""
    parts = ["*" if any(one.isdigit() for one in part.split(".")[0]) else part for part in path.parts[:-1]]
    stem = "*" if path.stem.isdigit() or len(path.stem) == 64 else path.stem
    return "/".join([*parts, stem + path.suffix])


def judged(read: Callable[[], Any], truth: Any) -> str:
    """What a flip did to what is read."""
    try:
        found = read()
    except ImageLongitudinalError:
        return "noticed"
    return "harmless" if found == truth else "wrong"


def everything(address: Path) -> Any:
    """All that a reader gets of a data set."""
    data = open_dataset(address)
    n, levels = len(data), data.levels
    arrays = [data.images[0:n], data.latents[0:n], data.images[[3, n - 1]], data.linked_eta[0:n]]
    arrays += [values for level in levels for values in (data.used_eta(level)[0:n], data.outcomes(level)[0:n])]
    of_level = data.random_effects, data.observations
    one = data.subject(n // 2)
    tables = [data.subjects(), *(table(level) for level in levels for table in of_level)]
    tables += [*one.random_effects.values(), *one.observations.values()]
    return data.manifest, [array.tobytes() for array in arrays], [str(table.to_pydict()) for table in tables]


def test_a_data_set(home: Home) -> None:
    """Read through the reader, a flip is noticed or changes nothing; verification notices every one."""
    assert TABLES == ("subjects", "random_effects", "observations"), "everything() reads them"
    truth, table, root = everything(home.data), Table(), open_root(home.data)
    for path in sorted(path for path in home.data.rglob("*") if path.is_file()):
        kind = kind_of(path.relative_to(home.data))
        for _ in flips(path):
            table.add(kind, "flips")
            table.add(kind, judged(lambda: everything(home.data), truth))
            try:
                seen = not verify_dataset(root).ok
            except ImageLongitudinalError:
                seen = True
            table.add(kind, "verify notices" if seen else "verify misses")
    table.show("data set, on reading", ("noticed", "harmless", "wrong", "verify notices"))
    assert table.total("wrong") == table.total("verify misses") == 0


def readers(home: Home) -> dict[str, Callable[[Path], Any]]:
    """For each kind of file of a workspace, by the end of its name: how the code reads it."""
    workspace = Workspace.at(home.workspace)

    def prepared(path: Path) -> Any:
        images = open_prepared(path.parent)
        return images.manifest, [images.images(size).tobytes() for size in images.sizes]

    def checkpoint(path: Path) -> Any:
        tensors, metadata = load_checked(path)
        return metadata, {name: value.numpy().tobytes() for name, value in tensors.items()}

    def trained(path: Path) -> Any:
        found = TrainedNetwork.find(path.with_suffix(""))
        if found is None:
            raise ImageLongitudinalError("trained again")
        return found.sha256, Path(found.figures).read_bytes()

    def version(path: Path) -> Any:
        found = workspace.registry.get(path.parent.name)
        weights = [value for group in found.all_tensors().values() for value in group.values()]
        return found.metadata, [zlib.crc32(value.numpy().tobytes()) for value in weights]

    def aliases(path: Path) -> Any:
        return workspace.registry.get("production").version, workspace.registry.get("candidate").version

    return {
        "images/*/manifest.json": prepared, "images/*/images-*.npy": prepared,
        "training/*/*.checkpoint": checkpoint, "training/*/*.best": checkpoint,
        "training/*/*.safetensors": trained, "training/*/*.json": trained,
        "models/*/gates.json": lambda path: read_gates(path.parent),
        "models/*/*": version, "models/aliases.json": aliases,
    }  # fmt: skip


UNREAD = ("images/*/*.png", "training/*/*.tensorboard/*", "models/*/README.md")  # for people: no code reads them again


def test_a_workspace(home: Home) -> None:
    """What training, registration and generation read of a workspace is as it was written, or is not used."""
    table, known = Table(), readers(home)
    for path in sorted(path for path in home.workspace.rglob("*") if path.is_file()):
        relative = path.relative_to(home.workspace)
        if any(relative.match(pattern) for pattern in UNREAD):
            table.add(kind_of(relative), "not read")
            continue
        (read,) = [reader for pattern, reader in known.items() if relative.match(pattern)][:1]
        truth = read(path)
        for _ in flips(path):
            table.add(kind_of(relative), "flips")
            table.add(kind_of(relative), judged(lambda path=path, read=read: read(path), truth))
    table.show("workspace", ("noticed", "harmless", "wrong", "not read"))
    assert table.total("wrong") == 0


def test_cleaned_frames(tmp_path: Path) -> None:
    table, cache = Table(), FrameCache(tmp_path)
    frame = np.random.default_rng(1).integers(0, 255, (40, 50), dtype=np.uint8)
    cache.put("ab" * 32, CleanScan(frame, ("upside-down: mirrored",)))
    (path,) = tmp_path.rglob("*.png")
    for _ in flips(path):
        found = cache.get("ab" * 32)
        table.add("frames", "flips")
        same = found is not None and np.array_equal(found.frame, frame) and found.cures == ("upside-down: mirrored",)
        outcome = "noticed" if found is None else "harmless" if same else "wrong"
        table.add("frames", outcome)
    table.show("cleaned frames", ("noticed", "harmless", "wrong"))
    assert table.total("wrong") == 0


def test_the_same_command_again_ends_in_the_same_digests(home: Home) -> None:
    """Whatever file is damaged, of the data set, the workspace or both."""
    whole, chosen = digests(home.data), random.Random(SEED)
    version = train_models(config=home.config, workspace=str(home.workspace)).version
    files = [path for folder in (home.data, home.workspace) for path in folder.rglob("*") if path.is_file()]
    kinds = dict[str, list[Path]]()
    for path in sorted(files):
        kinds.setdefault(kind_of(path.relative_to(home.data.parent)), []).append(path)
    table = Table()
    for kind, paths in sorted(kinds.items()):
        path = chosen.choice(paths)
        content = bytearray(path.read_bytes())
        content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
        path.write_bytes(content)
        if path.is_relative_to(home.workspace):  # as if the later stages had not been reached
            shutil.rmtree(home.workspace / "models", ignore_errors=path.parent.parent.name != "models")
        home.generate()
        table.add(kind, "flips")
        same = digests(home.data) == whole
        same &= train_models(config=home.config, workspace=str(home.workspace)).version == version
        table.add(kind, "same digests" if same else "other digests")
    table.show("the command again", ("same digests", "other digests"))
    assert table.total("other digests") == 0
