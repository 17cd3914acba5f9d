"""The order in which an epoch visits a data set: shards shuffled, then subjects within them; pure arithmetic.

The shards are distributed over *streams*. Each stream shuffles the subjects of a few shards at a time and cuts them
into batches; the epoch takes one batch from each stream in rotation, and the rest of each fills the last batches. Any
worker can make any batch, and an epoch can be resumed anywhere.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.random import stream_key, uniforms

Ids = NDArray[np.int64]


class EpochOrder:
    """Batches of subject ids of one epoch, decided by the arguments alone.

    Args:
        runs: the subjects to visit, ``start <= id < stop``, one run for each shard (see ``Dataset.runs``).
        batch_size: subjects per batch; only the last batch may be shorter.
        seed, epoch: decide the order.
        shuffle: False for id order.
        drop_last: omit a shorter last batch.
        streams: this many consecutive batches come from different groups of shards. If it is a multiple of
            ranks · workers, each shard is read by one worker only.
        mix: shards of one stream whose subjects are shuffled together.
    """

    def __init__(
        self,
        runs: Sequence[tuple[int, int]],
        *,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        streams: int = 16,
        mix: int = 2,
    ) -> None:
        self.batch_size, self.key, self.shuffle = batch_size, stream_key(seed, "epoch", epoch), shuffle
        count = min(streams, len(runs)) if shuffle else 1
        shuffled = [runs[i] for i in self._permutation(len(runs), 0)]
        groups = [
            [shuffled[s::count][i : i + mix] for i in range(0, len(shuffled[s::count]), mix)] for s in range(count)
        ]
        self._groups = groups if runs else []
        sizes = [[sum(stop - start for start, stop in group) for group in stream] for stream in self._groups]
        self._ends = [np.cumsum([0, *stream]) for stream in sizes]
        full = np.array([ends[-1] // batch_size for ends in self._ends], np.int64)
        round_ = np.concatenate([np.arange(n) for n in full]) if len(full) else np.zeros(0, np.int64)
        stream = np.repeat(np.arange(len(full)), full)
        in_order = np.lexsort((stream, round_))
        self._stream, self._round = stream[in_order], round_[in_order]
        rest = int(sum(ends[-1] % batch_size for ends in self._ends))
        self._tail = rest // batch_size if drop_last else -(-rest // batch_size)
        self._shuffled: OrderedDict[tuple[int, int], Ids] = OrderedDict()  # at most two groups per stream

    def __len__(self) -> int:
        return len(self._stream) + self._tail

    def __getitem__(self, index: int) -> Ids:
        """Subject ids of batch ``index``, int64; 0 ≤ index < len, else IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        size = self.batch_size
        if index < len(self._stream):
            start = int(self._round[index]) * size
            return self._slice(int(self._stream[index]), start, start + size)
        ends = [int(ends[-1]) for ends in self._ends]
        rest = np.concatenate([self._slice(s, end - end % size, end) for s, end in enumerate(ends)])
        start = (index - len(self._stream)) * size
        return rest[self._permutation(len(rest), 1)][start : start + size]

    def _slice(self, stream: int, start: int, stop: int) -> Ids:
        """Subjects ``start <= i < stop`` of one stream."""
        pieces = [np.zeros(0, np.int64)]
        for group, (low, high) in enumerate(pairwise(self._ends[stream])):
            if low < stop and start < high:
                pieces.append(self._group(stream, group)[max(start - low, 0) : stop - low])
        return np.concatenate(pieces)

    def _group(self, stream: int, group: int) -> Ids:
        if (ids := self._shuffled.get((stream, group))) is None:
            ids = np.concatenate([np.arange(start, stop) for start, stop in self._groups[stream][group]])
            ids = ids[self._permutation(len(ids), 2, stream, group)]
            self._shuffled[stream, group] = ids
            if len(self._shuffled) > 2 * len(self._groups):
                self._shuffled.popitem(last=False)
        return ids

    def _permutation(self, n: int, *which: int) -> Ids:
        if not self.shuffle:
            return np.arange(n)
        return np.argsort(uniforms(stream_key(self.key, *which), np.arange(n), 1)[:, 0], kind="stable")
