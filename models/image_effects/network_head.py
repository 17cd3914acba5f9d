"""g as a small network, of pixels or of features, trained in mini-batches on what outcomes say about g.

A network is trained without each fold of subjects, all for the same number of epochs: the one after which the marginal
likelihood of the held-out subjects, all folds together, is highest. That may be none: then g is 0. g of other images is
the mean of these networks. Weights are averaged over steps, as single ones hold more noise of batches than signal where
images say little.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from image_longitudinal.models.image_effects.learners import CrossFit, Targets, fold_numbers
from image_longitudinal.models.image_effects.subject_images import SubjectImages
from image_longitudinal.models.training.step_random import batch_indices, seeded_weights

FloatArray = NDArray[np.float64]
Inputs = SubjectImages | FloatArray  # pixels, or features (n, F)

BATCH = 32  # subjects
EPOCHS, PATIENCE = 60, 8
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-2
AVERAGE = 0.98  # of the weights, over the last 50 steps
HIDDEN = 64
TOGETHER = 1_000  # images that a trained network sees at a time


class SmallNetwork(nn.Module):
    """Standardised pixels (B, H, W), or features (B, F), → numbers (B, k); 0 before training."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.shape, self.outputs = shape, outputs
        if len(shape) == 1:
            last, layers = HIDDEN, [nn.Linear(shape[0], HIDDEN), nn.SiLU()]
        else:
            sides = [-(-side // 8) for side in shape]  # three times halved
            last, layers = HIDDEN, [
                nn.Unflatten(1, (1, shape[0])), nn.Conv2d(1, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1),
                nn.SiLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.SiLU(), nn.Flatten(),
                nn.Linear(32 * sides[0] * sides[1], HIDDEN), nn.SiLU(),
            ]  # fmt: skip
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(last, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Numbers (B, k)."""
        return self.head(self.layers(inputs))


@dataclass(frozen=True, eq=False)
class NetworkHead:
    """g(x): the mean of networks of (x - ``centre``) / ``scale`` less ``shift`` (k,), in units of ``factor`` (k, k)."""

    networks: tuple[nn.Module, ...]
    centre: NDArray[np.float32]
    scale: NDArray[np.float32]
    shift: FloatArray
    factor: FloatArray

    def __call__(self, features: Inputs) -> FloatArray:
        """g (n, k) of the images, or the features, of n subjects."""
        rows, owner, n = _arranged(features)
        with _one_thread():
            found = [_values(network, (rows - self.centre) / self.scale, owner, n) for network in self.networks]
        return np.asarray((np.mean(found, axis=0) - self.shift) @ self.factor.T)


class NetworkLearner:
    """Learns a small network.

    Args:
        inputs: images or features (n, F) of the training subjects.
        folds: of the cross-fit, and number of networks.
        seed: of folds, weights and the order of subjects.
        epochs: at most; 60 if None.
        patience: so many epochs without a better held-out likelihood end the training.
        report: called with epoch and held-out log-likelihood, relative to g = 0.
    """

    def __init__(
        self, inputs: Inputs, *, folds: int = 5, seed: int = 1, epochs: int | None = None, patience: int = PATIENCE,
        report: Callable[[int, float], None] | None = None,
    ) -> None:  # fmt: skip
        self.folds, self.seed, self.patience, self.report = folds, seed, patience, report
        self.epochs = EPOCHS if epochs is None else epochs
        rows, self.owner, self.n = _arranged(inputs)
        self.fold = fold_numbers(self.n, folds, seed)
        self.centre = rows.mean(0)
        spread = rows.std(0)
        # one scale for all pixels: their contrasts are content; a feature has its own
        wide = np.full_like(spread, max(float(np.sqrt(np.square(spread).mean())), 1e-6))
        self.scale = wide if rows.ndim == 3 else np.where(spread > 1e-6 * wide, spread, 1.0).astype(np.float32)
        self.rows = torch.from_numpy((rows - self.centre) / self.scale)
        order = np.argsort(self.owner, kind="stable")
        counts = np.bincount(self.owner, minlength=self.n)
        self.of_subject = np.split(order, np.cumsum(counts)[:-1])

    def __len__(self) -> int:
        return self.n

    def cross_fit(self, targets: Targets) -> CrossFit:
        """Networks without each fold, at the epoch at which all of them predict the held-out subjects best."""
        with _one_thread():
            return self._cross_fit(targets)

    def _cross_fit(self, targets: Targets) -> CrossFit:
        k = len(targets.factor)
        with seeded_weights(self.seed, "image-network"):
            first = SmallNetwork(tuple(self.rows.shape[1:]), k)
        trainings = [_Training(copy.deepcopy(first)) for _ in range(self.folds)]
        score = torch.from_numpy(targets.score).float()
        information = torch.from_numpy(targets.information).float()
        best, best_epoch = 0.0, 0
        kept: list[nn.Module] = [copy.deepcopy(first) for _ in trainings]
        for epoch in range(1, self.epochs + 1):
            gain = 0.0
            for number, training in enumerate(trainings):
                learning, held = np.flatnonzero(self.fold != number), np.flatnonzero(self.fold == number)
                steps = -(-len(learning) // BATCH)
                for step in range((epoch - 1) * steps, epoch * steps):
                    batch = batch_indices(len(learning), min(BATCH, len(learning)), self.seed, f"fold-{number}", step)
                    chosen = learning[batch]
                    rows, owner = self._images(chosen)
                    found = _averaged(training.network(self.rows[rows]), owner, len(chosen))
                    training.step(-_log_likelihood(found, score[chosen], information[chosen]).mean())
                own = torch.from_numpy(self._values(training.average.module, held)).float()
                gain += float(_log_likelihood(own, score[held], information[held]).sum())
            if self.report:
                self.report(epoch, gain)
            if gain > best:
                best, best_epoch = gain, epoch
                kept = [copy.deepcopy(training.average.module) for training in trainings]
            elif epoch - best_epoch >= self.patience:
                break
        every = [self._values(network, np.arange(self.n)) for network in kept]
        held_out = np.empty((self.n, k))
        for number, values in enumerate(every):
            own = self.fold == number
            held_out[own] = values[own] - values[~own].mean(0)
        shift = np.mean(every, axis=(0, 1))
        head = NetworkHead(tuple(kept), self.centre, self.scale, shift, targets.factor)
        return CrossFit(held_out @ targets.factor.T, head)

    def _images(self, subjects: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the images of some subjects, and the position of each one's subject among them."""
        own = [self.of_subject[subject] for subject in subjects]
        return np.concatenate(own), np.repeat(np.arange(len(own)), [len(one) for one in own])

    def _values(self, network: nn.Module, subjects: NDArray[np.int64]) -> FloatArray:
        rows, owner = self._images(subjects)
        return _values(network, self.rows[rows].numpy(), owner, len(subjects))


class _Training:
    """A network in training, and the average of its weights."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))
        self.optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def step(self, loss: Tensor) -> None:
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.average.update_parameters(self.network)


def _log_likelihood(found: Tensor, score: Tensor, information: Tensor) -> Tensor:
    """Log-likelihood (B,) of b = ``found`` (B, k), relative to b = 0; see :class:`.learners.Targets`."""
    return (found * score).sum(1) - 0.5 * torch.einsum("na,nab,nb->n", found, information, found)


def _averaged(values: Tensor, owner: NDArray[np.int64], n: int) -> Tensor:
    """Means (n, k) of values (N, k) over the images of each subject."""
    own = torch.from_numpy(owner)
    counts = torch.bincount(own, minlength=n)[:, None]
    return torch.zeros(n, values.shape[1], dtype=values.dtype).index_add(0, own, values) / counts


@torch.no_grad()
def _values(network: nn.Module, rows: NDArray[np.float32], owner: NDArray[np.int64], n: int) -> FloatArray:
    parts = [network(part) for part in torch.from_numpy(rows).float().split(TOGETHER)]
    return np.asarray(_averaged(torch.cat(parts).double(), owner, n).numpy())


def _arranged(inputs: Inputs) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """Rows of a network, the subject of each, and the number of subjects."""
    if isinstance(inputs, SubjectImages):
        return inputs.pixels, inputs.owner, len(inputs)
    return inputs.astype(np.float32), np.arange(len(inputs)), len(inputs)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread in the body: sums of several threads differ in the last bits, and networks here are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
