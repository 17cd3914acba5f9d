"""Which shards a run still has to make: found by one listing, and by looking at the manifests that exist."""

from collections.abc import Iterator
from pathlib import Path

from image_longitudinal.core.presets import load_config
from image_longitudinal.models.imaging.backends import describe
from image_longitudinal.storage.dataset.layout import shard_manifest_path
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.tasks.shards.making import DatasetRun
from image_longitudinal.tasks.shards.specs import DatasetSpec, Execution, ImageSpec, OutcomeSpec
from image_longitudinal.tasks.workspace import Workspace


class CountingRoot(LocalRoot):
    """Counts how often it is asked."""

    listed = read = 0

    def files(self, folder: str = "") -> list[str]:
        self.listed += 1
        return super().files(folder)

    def blocks(self, path: str) -> Iterator[bytes]:
        self.read += 1
        return super().blocks(path)


def run_of(root: LocalRoot, *overrides: str, refresh: bool = False) -> DatasetRun:
    config = load_config("demo", overrides=("generator.backend=phantom", *overrides))
    described = describe(config.generator, None)
    images, outcomes = ImageSpec.of(config, described), OutcomeSpec.of(config, described.latent_dim, (0, 1, 2))
    spec = DatasetSpec.of(config, images, outcomes, None)
    return DatasetRun(root, spec, Execution.of(config, None, Workspace.at(root.folder)), refresh=refresh)


def test_many_shards_are_planned_without_a_look_at_each(tmp_path: Path) -> None:
    root = CountingRoot(tmp_path)
    run = run_of(root, "dataset.n_subjects=300000", "dataset.shard_size=1")
    root.write_bytes(shard_manifest_path(123_456), b"{")
    finished, wanted = run.unfinished(run.spec.plan.indices)
    assert not finished
    assert list(wanted) == list(range(300_000))
    assert {index: why for index, why in wanted.items() if why != "not made yet"} == {
        123_456: "its manifest is damaged"
    }
    assert (root.listed, root.read) == (1, 1)  # 0.5 ms for each shard would be minutes


def test_a_refresh_looks_at_nothing(tmp_path: Path) -> None:
    root = CountingRoot(tmp_path)
    run = run_of(root, refresh=True)
    assert run.unfinished(run.spec.plan.indices) == ({}, dict.fromkeys(range(5), "refresh was requested"))
    assert (root.listed, root.read) == (0, 0)
