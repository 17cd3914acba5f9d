"""PyTorch data sets: right samples, one order for any number of workers, exact resume, ranks that share an epoch."""

import itertools
import os
import threading
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.loaders import FIELDS, SubjectDataset, SubjectLoader, SubjectStream
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.storage.dataset.transfer import Selection, copy_dataset
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.storage.io.root import Root
from tests.storage.conftest import Arrays, arrays, write_dataset

LEVEL = 0.0526
SMALL = {"batch_size": 2, "streams": 2, "mix": 1, "fields": ("id",)}


def ids(batches: Iterable[dict[str, torch.Tensor]]) -> list[list[int]]:
    return [batch["id"].tolist() for batch in batches]


def check(sample: dict[str, torch.Tensor], data: Arrays, rows: list[int]) -> None:
    expected = {
        "id": np.array(rows),
        "image": data.images[rows][:, None],
        "latent": data.latents[rows],
        "linked_eta": data.eta[rows].astype(np.float32),
        "used_eta": data.used[LEVEL][rows].astype(np.float32),
        "outcomes": data.dv[LEVEL][rows].astype(np.float32),
    }
    assert list(sample) == list(FIELDS)
    for name, values in expected.items():
        assert sample[name].numpy().dtype == values.dtype
        np.testing.assert_array_equal(sample[name], values)


def test_a_map_style_sample_is_its_subject(published: Root) -> None:
    data = arrays()
    dataset = SubjectDataset(published, level=LEVEL, fields=tuple(FIELDS))
    assert len(dataset) == 22
    check({name: values[None] for name, values in dataset[13].items()}, data, [13])
    rows = [21, 0, 9, 8, 3]
    (batch,) = DataLoader(dataset, batch_size=5, sampler=rows)
    check(batch, data, rows)
    test = SubjectDataset(published, split="test", fields=("id",), transform=lambda s: {"double": 2 * s["id"]})
    assert [sample["double"].item() for sample in (test[0], test[6])] == [30, 42]
    with pytest.raises(IndexError):
        test[7]


def test_batches_of_a_stream_hold_their_subjects(published: Root) -> None:
    stream = SubjectStream(published.url, split=None, level=LEVEL, fields=tuple(FIELDS), batch_size=5, mix=2)
    batches = list(stream)
    assert sorted(itertools.chain(*ids(batches))) == list(range(22))
    for batch in batches:
        check(batch, arrays(), batch["id"].tolist())


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(published: Root, workers: int) -> None:
    alone = ids(SubjectLoader(published, **SMALL))
    assert sorted(itertools.chain(*alone)) == list(range(12))
    assert ids(SubjectLoader(published, num_workers=workers, **SMALL)) == alone
    stream = SubjectStream(published, **SMALL)
    assert ids(DataLoader(stream, batch_size=None, num_workers=workers)) == alone


def test_epochs_differ_and_a_seed_repeats_them(published: Root) -> None:
    loader, again = SubjectLoader(published, seed=5, **SMALL), SubjectLoader(published, seed=5, **SMALL)
    epochs = [ids(loader) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert [ids(again) for _ in range(3)] == epochs
    assert ids(SubjectLoader(published, shuffle=False, **SMALL)) == [[i, i + 1] for i in range(0, 12, 2)]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0)])
def test_a_training_goes_on_exactly_where_it_stopped(published: Root, before: int, after: int) -> None:
    whole = SubjectLoader(published, **SMALL)
    expected = [ids(whole), ids(whole)]
    stopped = SubjectLoader(published, num_workers=before, **SMALL)
    ids(stopped)
    seen = []
    for batch in stopped:
        seen.append(batch["id"].tolist())
        if len(seen) == 2:
            break
    resumed = SubjectLoader(published, num_workers=after, **SMALL)
    resumed.load_state_dict(stopped.state_dict())
    assert len(resumed) == len(expected[1]) - 2
    assert seen + ids(resumed) == expected[1]
    assert resumed.state_dict() == whole.state_dict()


def test_ranks_share_an_epoch_and_may_change_in_number(published: Root) -> None:
    options = {**SMALL, "split": None, "batch_size": 3}
    whole = ids(SubjectLoader(published, **options))
    ranks = [SubjectLoader(published, rank=r, world_size=2, **options) for r in range(2)]
    shared = [ids(loader) for loader in ranks]
    assert shared == [whole[0::2], whole[1::2]]
    even = [SubjectLoader(published, rank=r, world_size=3, drop_last=True, **options) for r in range(3)]
    assert [len(ids(loader)) for loader in even] == [2, 2, 2]  # 22 subjects: 7 whole batches, of which 6 are shared

    two = SubjectLoader(published, rank=1, world_size=2, **options)
    iterator = iter(two)
    next(iterator), next(iterator)
    four = [SubjectLoader(published, rank=r, world_size=4, **options) for r in range(4)]
    for loader in four:
        loader.load_state_dict(two.state_dict())
    assert [ids(loader) for loader in four] == [whole[4 + r :: 4] for r in range(4)]


def test_a_state_of_another_order_is_refused(published: Root) -> None:
    state = SubjectLoader(published, **SMALL).state_dict()
    for other in ({"seed": 1}, {"split": "test"}, {"shuffle": False}):
        with pytest.raises(StorageError, match=r"does not fit this one.*Build the loader with the same arguments"):
            SubjectLoader(published, **SMALL, **other).load_state_dict(state)  # type: ignore[arg-type]


def test_bad_requests_say_what_there_is(published: Root) -> None:
    with pytest.raises(StorageError, match=r"no such field.*id, image, latent.*got \['pixels'\]"):
        SubjectDataset(published, fields=("pixels",))
    with pytest.raises(StorageError, match="need an association level"):
        SubjectStream(published, fields=("outcomes",))
    with pytest.raises(StorageError, match="no such split"):
        SubjectStream(published, split="dev")
    with pytest.raises(StorageError, match="impossible rank"):
        SubjectStream(published, rank=2, world_size=2)


def test_a_store_in_memory_serves_workers() -> None:
    root = open_root("memory://torch/data")
    write_dataset(root)
    (batch,) = SubjectLoader(open_dataset(root), split="test", batch_size=7, num_workers=2)
    np.testing.assert_array_equal(batch["image"][:, 0], arrays().images[batch["id"]])


def test_a_part_of_a_data_set_serves_what_it_has(published: Root) -> None:
    part = open_root("memory://torch/part")
    copy_dataset(published, part, Selection(splits=("train", "test"), levels=(LEVEL,), shards=(0, 1)))
    here = [*range(12), 15]
    stream = SubjectStream(part, split=None, level=LEVEL, fields=tuple(FIELDS), batch_size=4, streams=1)
    batches = list(stream)
    assert sorted(itertools.chain(*ids(batches))) == here
    for batch in batches:
        check(batch, arrays(), batch["id"].tolist())
    mapped = SubjectDataset(part, level=LEVEL, fields=tuple(FIELDS))
    (batch,) = DataLoader(mapped, batch_size=13)
    check(batch, arrays(), here)


def test_exit_calls_of_the_parent_do_not_fail_in_workers(published: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()

    def fails_in_a_child() -> None:
        assert os.getpid() == parent

    monkeypatch.setattr(threading, "_threading_atexits", [fails_in_a_child])
    assert len(ids(SubjectLoader(published, num_workers=2, **SMALL))) == 6
