"""PyTorch data sets over a published data set: map-style for random access, iterable for training at scale.

For training, use :class:`SubjectLoader`::

    loader = SubjectLoader("s3://bucket/data", split="train", level=0.5, fields=("image", "linked_eta"), batch_size=64)
    for epoch in range(10):
        for batch in loader:  # {"image": uint8 (64, 1, H, W), "linked_eta": float32 (64, k)}
            ...
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data._utils.collate import default_collate_fn_map  # torch's documented way to collate another type

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import StorageError
from image_longitudinal.storage.dataset.order import EpochOrder
from image_longitudinal.storage.dataset.reader import Dataset, open_dataset
from image_longitudinal.storage.dataset.rows import Rows
from image_longitudinal.storage.io.root import Root

Batch = dict[str, torch.Tensor]
Transform = Callable[[Batch], Batch]

FIELDS = {
    "id": "subject id, int64",
    "image": "image, uint8 (1, H, W), 0-255",
    "latent": "latent vector behind the image, float32 (D,)",
    "linked_eta": "random effects linked to the image, float32 (k,)",
    "used_eta": "random effects that the outcomes of the level were made from, float32 (k,)",
    "outcomes": "outcomes at the level and the observation times, float32 (T,)",
}
"""What a sample can hold; a batch has one more dimension in front. The last two need a level."""


class SubjectDataset(TorchDataset[Batch]):
    """Map-style: sample i is subject i of a split. Random effects and outcomes are read into memory once, at the start.

    They take 4 bytes a number: for 1.1 million subjects 12 MB (three random effects) and 92 MB (21 times).

    Args:
        source: a data set or its address.
        split: one split, or all subjects.
        level: association level of ``used_eta`` and ``outcomes``.
        fields: keys of :data:`FIELDS`.
        transform: applied to each sample.

    Raises:
        StorageError: the data set has no such field, split or level, or ``used_eta`` or ``outcomes`` lack a level.

    Example:
        >>> samples = il.SubjectDataset("datasets/demo", split="test", level=0.5, fields=("image", "outcomes"))
        >>> len(samples), samples[0]["image"].shape, samples[0]["outcomes"].shape
        (64, torch.Size([1, 64, 64]), torch.Size([21]))
    """

    def __init__(
        self,
        source: Dataset | Root | str | Path,
        *,
        split: str | None = None,
        level: float | None = None,
        fields: Sequence[str] = ("id", "image", "latent", "linked_eta"),
        transform: Transform | None = None,
    ) -> None:
        self.dataset = source if isinstance(source, Dataset) else open_dataset(source)
        self.fields, self.transform = _check_fields(fields, level), transform
        view = self.dataset.view(split, level)
        self.ids = view.ids
        kept = [name for name in self.fields if name in ("linked_eta", "used_eta", "outcomes")]
        self._columns = {name: getattr(view, name)[:].astype(np.float32) for name in kept}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Batch:
        """The sample at ``index``; IndexError beyond the last, TypeError for anything but one whole number."""
        if not hasattr(index, "__index__") or np.ndim(index):
            many = "several samples are a batch of DataLoader(dataset, batch_size=...)"
            raise TypeError(f"a sample is found by one whole number, not by {index!r}; {many}")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        """Several samples at once, as a DataLoader requests them: every shard is opened once."""
        positions = np.asarray(indices, np.int64)
        if positions.size and not 0 <= positions.min() <= positions.max() < len(self):
            raise IndexError(f"samples {positions.min()} to {positions.max()} of {len(self)}")
        ids = self.ids[positions]
        arrays: dict[str, NDArray[Any]] = {"id": ids}
        arrays |= {name: values[positions] for name, values in self._columns.items()}
        if "image" in self.fields:
            arrays["image"] = self.dataset.images[ids][:, None]
        if "latent" in self.fields:
            arrays["latent"] = self.dataset.latents[ids]
        batch = {name: torch.from_numpy(arrays[name]) for name in self.fields}
        samples = [{name: values[row] for name, values in batch.items()} for row in range(len(positions))]
        return [self.transform(sample) for sample in samples] if self.transform else samples


class SubjectStream(IterableDataset[Batch]):
    """Iterable: whole batches of one epoch, in the order of :class:`storage.dataset.order.EpochOrder`.

    Use it in a ``DataLoader(stream, batch_size=None, num_workers=...)``, or use :class:`SubjectLoader`. Each rank gets
    every ``world_size``-th batch, and the workers of a rank read its batches in rotation, so the batches and their
    order do not depend on the number of workers.

    Args:
        source, split, level, fields: as for :class:`SubjectDataset`.
        batch_size: subjects per batch and rank.
        seed: decides the order of all epochs.
        shuffle: False for id order.
        drop_last: omit a short last batch, and last batches that not every rank would get.
        transform: applied to each batch.
        rank, world_size: of this process; by default those of torch.distributed if it is initialised, else 0 and 1.
        streams, mix: see :class:`storage.dataset.order.EpochOrder`.

    Example:
        >>> from image_longitudinal.storage.dataset.loaders import SubjectStream
        >>> len(SubjectStream("datasets/demo", split="train", batch_size=64))
        8
    """

    def __init__(
        self,
        source: Dataset | Root | str | Path,
        *,
        split: str | None = "train",
        level: float | None = None,
        fields: Sequence[str] = ("id", "image", "latent", "linked_eta"),
        batch_size: int = 64,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        transform: Transform | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        streams: int = 16,
        mix: int = 2,
    ) -> None:
        self.dataset = source if isinstance(source, Dataset) else open_dataset(source)
        self.fields, self.level, self.transform = _check_fields(fields, level), level, transform
        self.dataset.view(split, level)  # raises for an unknown split or level
        self.runs = self.dataset.runs(split)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            own_rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        else:
            own_rank, ranks = 0, 1
        self.rank = own_rank if rank is None else rank
        self.world_size = ranks if world_size is None else world_size
        if not 0 <= self.rank < self.world_size or batch_size < 1:
            expected = f"a rank below {self.world_size}, at least one subject per batch"
            got = f"rank {self.rank}, {batch_size} subjects"
            raise StorageError("impossible rank or batch size", expected=expected, got=got)
        self.drop_last = drop_last
        self._order_arguments = {
            "batch_size": batch_size, "seed": seed, "shuffle": shuffle, "drop_last": drop_last, "streams": streams,
            "mix": mix,
        }  # fmt: skip
        self.epoch = 0
        self.start = 0  # batches of this rank consumed before
        self._columns = _ShardColumns(self, keep=2 * streams * mix)

    def order(self, epoch: int | None = None) -> EpochOrder:
        """The batches of all ranks in one epoch, by default the current one."""
        epoch = self.epoch if epoch is None else epoch
        return EpochOrder(self.runs, epoch=epoch, **self._order_arguments)  # type: ignore[arg-type]

    def __len__(self) -> int:
        """Remaining batches of the epoch for this rank."""
        return max(self._batches(self.order()) - self.start, 0)

    def __iter__(self) -> Iterator[Batch]:
        order = self.order()
        worker = get_worker_info()
        if worker:
            _clear_inherited_exit_calls()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(self.start + first, self._batches(order), step):
            batch = self._read(order[number * self.world_size + self.rank])
            yield self.transform(batch) if self.transform else batch

    def fingerprint(self) -> str:
        """Digest of everything that decides the order; a state fits only a loader with the same digest."""
        return digest_of(self.dataset.manifest.identity, self.runs, self._order_arguments)

    def _batches(self, order: EpochOrder) -> int:
        each, rest = divmod(len(order), self.world_size)
        return each if self.drop_last else each + (self.rank < rest)

    def _read(self, ids: NDArray[np.int64]) -> Batch:
        arrays: dict[str, NDArray[Any]] = {"id": ids, **self._columns.take(ids)}
        if "image" in self.fields:
            arrays["image"] = self.dataset.images[ids][:, None]
        return _StreamBatch({name: torch.from_numpy(arrays[name]) for name in self.fields})


class SubjectLoader:
    """Batches of a :class:`SubjectStream`, epoch after epoch, with a state from which training resumes exactly.

    ``for batch in loader`` runs through one epoch, or the rest of it after :meth:`load_state_dict`; the next loop is
    the next epoch. After a ``break`` the next loop continues with the following batch.

    Args:
        source: as for :class:`SubjectStream`, or such a stream.
        num_workers: processes that read ahead.
        loader: other arguments of torch's DataLoader, such as ``pin_memory`` or ``prefetch_factor``.
        stream: arguments of :class:`SubjectStream`.

    Example:
        >>> loader = il.SubjectLoader("datasets/demo", split="train", fields=("image", "linked_eta"), batch_size=64)
        >>> [batch["image"].shape[0] for batch in loader]
        [64, 64, 64, 64, 64, 64, 64, 64]
        >>> loader.state_dict()["epoch"]
        1
    """

    def __init__(
        self,
        source: SubjectStream | Dataset | Root | str | Path,
        *,
        num_workers: int = 0,
        loader: dict[str, Any] | None = None,
        **stream: Any,
    ) -> None:
        self.stream = source if isinstance(source, SubjectStream) else SubjectStream(source, **stream)
        self._loader_arguments = {"num_workers": num_workers, **(loader or {})}

    def __len__(self) -> int:
        """Remaining batches of the epoch."""
        return len(self.stream)

    def __iter__(self) -> Iterator[Batch]:
        stream = self.stream
        for batch in DataLoader(stream, batch_size=None, **self._loader_arguments):
            stream.start += 1  # workers iterate over copies of the stream
            yield batch
        stream.epoch, stream.start = stream.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The position: epoch, and batches consumed by all ranks if each has consumed as many as this one."""
        stream = self.stream
        consumed = stream.start * stream.world_size
        return {"epoch": stream.epoch, "batches": consumed, "fingerprint": stream.fingerprint()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state, with any number of workers; the number of ranks must divide the batches consumed.

        Raises:
            StorageError: the state is of another data set or order.
        """
        stream, consumed = self.stream, int(state["batches"])
        if state["fingerprint"] != stream.fingerprint() or consumed % stream.world_size:
            same = "data set, split, batch size, seed, shuffling, streams and mix"
            expected = f"the same {same}; ranks that divide the batches consumed"
            got = f"{consumed} batches for {stream.world_size} ranks, fingerprint {state['fingerprint'][:12]}"
            do = "build the loader with the same arguments as before, or start the epoch again"
            raise StorageError("the state of a loader does not fit this one", expected=expected, got=got, do=do)
        stream.epoch, stream.start = int(state["epoch"]), consumed // stream.world_size


class _StreamBatch(Batch):
    """A batch of a stream; a DataLoader that makes batches of such batches is told so."""


def _refuse_batches_of_batches(batch: object, *, collate_fn_map: object = None) -> None:
    do = "use DataLoader(stream, batch_size=None), or SubjectLoader, or data.torch(...); batch_size is the stream's"
    raise StorageError("a SubjectStream gives whole batches: it cannot be batched again", do=do)


default_collate_fn_map[_StreamBatch] = _refuse_batches_of_batches


class _ShardColumns:
    """Latents, random effects and outcomes of the shards in use: each shard is read once; ``keep`` of them are held."""

    def __init__(self, stream: SubjectStream, keep: int) -> None:
        dataset, level = stream.dataset, stream.level
        sources: dict[str, Callable[[], Rows]] = {
            "latent": lambda: dataset.latents,
            "linked_eta": lambda: dataset.linked_eta,
            "used_eta": lambda: dataset.used_eta(cast(float, level)),
            "outcomes": lambda: dataset.outcomes(cast(float, level)),
        }
        self.readers = {name: source() for name, source in sources.items() if name in stream.fields}
        self.size, self.keep = dataset.plan.shard_size, keep
        self.runs: dict[int, list[tuple[int, int]]] = {}
        for start, stop in stream.runs:
            self.runs.setdefault(start // self.size, []).append((start, stop))
        self.shards: OrderedDict[int, dict[str, NDArray[np.float32]]] = OrderedDict()

    def take(self, ids: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Each column's rows of any ids."""
        if not self.readers:
            return {}
        shards = ids // self.size
        out: dict[str, NDArray[np.float32]] = {}
        for index in np.unique(shards).tolist():
            positions = np.flatnonzero(shards == index)
            for name, values in self._shard(index).items():
                target = out.setdefault(name, np.empty((len(ids), values.shape[1]), np.float32))
                target[positions] = values[ids[positions] - index * self.size]
        return out

    def _shard(self, index: int) -> dict[str, NDArray[np.float32]]:
        if index not in self.shards:
            columns: dict[str, NDArray[np.float32]] = {}
            for start, stop in self.runs[index]:
                for name, rows in self.readers.items():
                    values = rows[start:stop]
                    column = columns.setdefault(name, np.empty((self.size, values.shape[1]), np.float32))
                    column[start - index * self.size : stop - index * self.size] = values
            self.shards[index] = columns
            if len(self.shards) > self.keep:
                self.shards.popitem(last=False)
        self.shards.move_to_end(index)
        return self.shards[index]


def _clear_inherited_exit_calls() -> None:
    """Remove the exit calls that a forked worker inherits from threads which it does not have.

    After a flow has run in the parent, Prefect's exit call fails in the worker and changes its exit status.
    """
    getattr(threading, "_threading_atexits", []).clear()


def _check_fields(fields: Sequence[str], level: float | None) -> tuple[str, ...]:
    unknown = [name for name in fields if name not in FIELDS]
    if unknown or not fields:
        ambiguous = {"eta", "effects"}.intersection(unknown)
        which = "linked_eta are the random effects behind the image, used_eta those behind the outcomes of a level"
        raise StorageError(
            "no such field of a sample", expected=f"some of {', '.join(FIELDS)}", got=unknown,
            do=f"choose: {which}" if ambiguous else None,
        )  # fmt: skip
    if level is None and {"used_eta", "outcomes"}.intersection(fields):
        raise StorageError("used_eta and outcomes need an association level", do="give one: level=0.5")
    return tuple(fields)
