"""A small data set made through the public functions alone, in the order a flow uses."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_longitudinal.core.config import (
    EXECUTION_SECTIONS,
    Config,
    DatasetConfig,
    GeneratorConfig,
    OutcomesConfig,
)
from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.plan import Shard, ShardPlan
from image_longitudinal.storage.dataset.card import CITATION, write_card
from image_longitudinal.storage.dataset.images import create_image_arrays, write_image_shard
from image_longitudinal.storage.dataset.manifest import (
    ImageInfo,
    Part,
    RootManifest,
    ShardManifest,
    finished_shard,
    owns_shards,
    write_root_manifest,
    write_shard_manifest,
)
from image_longitudinal.storage.dataset.reader import Dataset, open_dataset
from image_longitudinal.storage.dataset.run_claim import begin_run, check_same_dataset
from image_longitudinal.storage.dataset.tables import (
    PlannedDose,
    write_observations,
    write_random_effects,
    write_subjects,
)
from image_longitudinal.storage.io.lease import hold_lease
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import FileRecord, Root, clean_temporaries, file_record

SIDE, LATENT_DIM, TIMES = 8, 6, (0.0, 0.5, 1.0, 4.0)
LICENCE = "CC-BY-4.0"
LEVELS = (1.0, 0.0526)
PLAN = ShardPlan(n_subjects=22, shard_size=8, validation_fraction=0.15, test_fraction=0.3)  # 12 train, 3, 7
IDENTITY = digest_of("the data set of these tests")
CONFIG = Config(
    seed=7, generator=GeneratorConfig(backend="phantom"), outcomes=OutcomesConfig(times=TIMES),
    dataset=DatasetConfig(name="tiny", date="2026-01-02", association=LEVELS),
)  # fmt: skip
PARTS = {"image": digest_of("image"), "outcomes": digest_of("pk")}


@dataclass(frozen=True)
class Arrays:
    images: np.ndarray
    latents: np.ndarray
    seeds: np.ndarray
    eta: np.ndarray
    used: dict[float, np.ndarray]
    dv: dict[float, np.ndarray]


def arrays(plan: ShardPlan = PLAN) -> Arrays:
    rng, n = np.random.default_rng(7), plan.n_subjects
    images = rng.integers(0, 256, (n, SIDE, SIDE), dtype=np.uint8)
    images[min(3, n - 1)] = 0
    latents = rng.normal(size=(n, LATENT_DIM)).astype(np.float32)
    eta = latents[:, [4, 0]].astype(np.float64)
    used = {level: eta if level == 1 else rng.normal(size=(n, 2)) for level in LEVELS}
    dv = {level: rng.normal(size=(n, len(TIMES))) for level in LEVELS}
    return Arrays(images, latents, rng.integers(0, 2**62, n), eta, used, dv)


def write_shard(root: Root, shard: Shard, data: Arrays, plan: ShardPlan = PLAN) -> FileRecord:
    rows = slice(shard.start, shard.stop)
    images = write_image_shard(root, shard, data.images[rows], data.latents[rows], shard_size=plan.shard_size)
    outcomes = write_subjects(root, shard, seeds=data.seeds[rows], eta=data.eta[rows], licence=LICENCE)
    for level in LEVELS:
        used = data.used[level][rows]
        parameters = {"Ka": np.exp(used[:, 0])}
        outcomes += write_random_effects(root, shard, level, eta=used, parameters=parameters, licence=LICENCE)
        outcomes += write_observations(
            root, shard, level, times=TIMES, doses=[PlannedDose(0, 1)], dv=data.dv[level][rows], licence=LICENCE
        )
    files = {"image": images, "outcomes": outcomes}
    parts = {name: Part(key=key, files=files[name]) for name, key in PARTS.items()}
    manifest = ShardManifest(index=shard.index, start=shard.start, stop=shard.stop, parts=parts)
    return write_shard_manifest(root, manifest)


def write_dataset(root: Root, plan: ShardPlan = PLAN) -> RootManifest:
    data = arrays(plan)
    files = begin(root, plan)
    shards = tuple(write_shard(root, shard, data, plan) for shard in plan)
    manifest = root_manifest(plan, shards, files)
    manifest = manifest.model_copy(update={"files": files + write_card(root, manifest)})
    write_root_manifest(root, manifest)
    return manifest


def config_of(plan: ShardPlan) -> dict[str, Any]:
    """The configuration of a data set of these tests, as a manifest records it."""
    fractions = {"validation_fraction": plan.validation_fraction, "test_fraction": plan.test_fraction}
    dataset = CONFIG.dataset.model_copy(
        update={"n_subjects": plan.n_subjects, "shard_size": plan.shard_size, **fractions}
    )
    config = CONFIG.model_copy(update={"dataset": dataset})
    return config.model_dump(mode="json", exclude=set(EXECUTION_SECTIONS))


def begin(root: Root, plan: ShardPlan) -> tuple[FileRecord, ...]:
    indices = [shard.index for shard in plan]
    begin_run(root, IDENTITY, config_of(plan), owns_shards=lambda: owns_shards(root, lambda index: PARTS, indices))
    files = create_image_arrays(
        root, n=plan.n_subjects, height=SIDE, width=SIDE, latent_dim=LATENT_DIM, shard_size=plan.shard_size,
        licence=LICENCE,
    )  # fmt: skip
    return (*files, file_record(root, ".run.json"))


def resume(root: Root, data: Arrays, plan: ShardPlan) -> list[int]:
    """What a run does to an output, in the order of the flow, without card and report: the shards it made."""
    made: list[int] = []
    with hold_lease(root) as lease:
        files, state = begin(root, plan), check_same_dataset(root, IDENTITY)
        clean_temporaries(root)
        records = []
        for shard in plan:
            record = finished_shard(root, shard.index, PARTS, rehash=True)
            if isinstance(record, str):  # why it is to be made
                made.append(shard.index)
                record = write_shard(root, shard, data, plan)
                lease.check()
            records.append(record)
        if state != "published" or made:
            write_root_manifest(root, root_manifest(plan, tuple(records), files))
    return made


def root_manifest(plan: ShardPlan, shards: tuple[FileRecord, ...], files: tuple[FileRecord, ...]) -> RootManifest:
    image = ImageInfo(
        height=SIDE, width=SIDE, latent_dim=LATENT_DIM, backend="phantom", model="phantom", version="1",
        digest=digest_of("m"),
    )  # fmt: skip
    return RootManifest(
        name="tiny", date="2026-01-02", identity=IDENTITY, config=config_of(plan),
        config_digest=digest_of(config_of(plan)), seed=7, n_subjects=plan.n_subjects, shard_size=plan.shard_size,
        splits=plan.split_counts, levels=LEVELS, random_effects=("Ka", "Imax"), eta_latents=(4, 0), parameters=("Ka",),
        times=TIMES, doses=(PlannedDose(0, 1),), image=image, shards=shards, files=files, versions={"zarr": "3"},
        licence=LICENCE, citation=CITATION,
    )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return open_root(tmp_path / "data")


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    """An empty root, on disk and in memory."""
    return open_root(tmp_path / "store" if request.param == "local" else f"memory://{tmp_path.name}/store")


@pytest.fixture
def published(root: Root) -> Root:
    write_dataset(root)
    return root


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A published data set that the tests of a module only read."""
    root = open_root(tmp_path_factory.mktemp("tiny") / "data")
    write_dataset(root)
    return open_dataset(root)


def digests(root: Root) -> dict[str, str]:
    """SHA-256 of every file."""
    return {path: root.sha256(path) for path in root.files()}


def in_child(work: Callable[[], object]) -> int:
    """Fork; the child's process id. It exits with 0 after ``work``, with 1 if that raises a StorageError."""
    if (child := os.fork()) == 0:
        status = 2
        try:
            work()
            status = 0
        except StorageError:
            status = 1
        finally:
            os._exit(status)
    return child


def exit_status(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
