"""A power cut at any moment of a run: what was published stays, and the same run ends in the same data set."""

import itertools
from pathlib import Path

import pytest

from image_longitudinal.core import files
from image_longitudinal.core.plan import ShardPlan
from image_longitudinal.storage.dataset.layout import LEASE
from image_longitudinal.storage.dataset.manifest import is_published
from image_longitudinal.storage.io.local import LocalRoot
from tests.power_cuts import Cut, lay_out, recorded
from tests.storage.conftest import arrays, digests, resume

PLAN = ShardPlan(n_subjects=5, shard_size=2, test_fraction=0.2)
DATA = arrays(PLAN)
EVERY = 6  # cuts: each has five states, and each state a run


def run(folder: Path) -> tuple[list[Cut], dict[str, str]]:
    with recorded(folder) as cuts:
        assert resume(LocalRoot(folder / "data"), DATA, PLAN) == [0, 1, 2]
    return cuts, digests(LocalRoot(folder / "data"))


def test_the_same_run_ends_in_the_same_data_set_after_every_cut(tmp_path: Path) -> None:
    cuts, reference = run(tmp_path / "whole")
    numbers = itertools.count()
    for chosen, cut in enumerate(cuts[::EVERY]):
        for state, tree in cut.states(chosen):
            folder = tmp_path / f"{next(numbers)}"
            lay_out(tree, folder)
            root = LocalRoot(folder / "data")
            if is_published(root):
                left = digests(root)
                assert {path: left[path] for path in reference} == reference, f"{state} before {cut.call}"
            resume(root, DATA, PLAN)
            found = {path: digest for path, digest in digests(root).items() if path != LEASE}
            assert found == reference, f"{state} before {cut.call}"


@pytest.mark.parametrize("durable", [True, False])
def test_what_a_finished_run_has_written_stays(tmp_path: Path, durable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not durable:  # this test can fail
        monkeypatch.setattr(files, "sync", lambda path: None)
    cuts, reference = run(tmp_path / "whole")
    whole = []
    for number, (_, tree) in enumerate(cuts[-1].states()):
        lay_out(tree, tmp_path / f"{number}")
        left = digests(LocalRoot(tmp_path / f"{number}" / "data"))
        whole.append({path: digest for path, digest in left.items() if path in reference} == reference)
    assert all(whole) if durable else not any(whole[:2])
