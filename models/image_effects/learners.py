"""What learns g from images: the interface, and the cross-fit that all of them share.

Subjects are divided into folds by a hash of their position in the table. Of each fold, g is predicted by fits that have
not seen it: Ω around g, the share that images explain and the end of a training are taken from such predictions alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.random import stream_key, uniforms
from image_longitudinal.models.image_effects.evidence import Evidence

FloatArray = NDArray[np.float64]
CERTAIN = 1e6  # times Ω⁻¹: the precision of an estimate that is taken for the truth
Learning = Literal["likelihood", "two-step"]


Head = Callable[[Any], FloatArray]  # g: what a learner was given of m subjects' images → their means (m, k)


@dataclass(frozen=True, eq=False)
class CrossFit:
    """``held_out`` (n, k): g of each training subject by fits that have not seen it; ``head``: g for others."""

    held_out: FloatArray
    head: Head


class Learner(Protocol):
    """Learns g on the images of the training subjects, which it holds."""

    folds: int

    def __len__(self) -> int:
        """Number of training subjects."""
        ...

    def cross_fit(self, targets: "Targets") -> CrossFit:
        """g from what outcomes say."""
        ...


@dataclass(frozen=True, eq=False)
class Targets:
    """What g is learned from, in units of ``factor`` (k, k): g = factor · b.

    The log-likelihood of b is ``score``ᵀ b - ½ bᵀ ``information`` b: (n, k) and (n, k, k).
    """

    score: FloatArray
    information: FloatArray
    factor: FloatArray
    known: Evidence
    omega: FloatArray

    @classmethod
    def of_likelihood(cls, known: Evidence, omega: FloatArray, total: FloatArray) -> "Targets":
        """The marginal likelihood of the evidence under Ω; units: the factor of Ω of the population, ``total``."""
        factor = np.asarray(np.linalg.cholesky(total), np.float64)
        score, information = known.score(np.zeros((len(known), len(omega))), omega)
        return cls(score @ factor, factor.T @ information @ factor, factor, known, omega)

    @classmethod
    def of_estimates(cls, eta: FloatArray, total: FloatArray) -> "Targets":
        """Empirical Bayes estimates (n, k) taken for the random effects: the second of two steps."""
        precision = np.tile(np.linalg.inv(total) * CERTAIN, (len(eta), 1, 1))
        known = Evidence(precision, eta @ np.linalg.inv(total) * CERTAIN, np.zeros(len(eta)))
        return cls.of_likelihood(known, total, total)

    def under(self, omega: FloatArray) -> "Targets":
        """The same evidence under another Ω."""
        factor = self.factor
        score, information = self.known.score(np.zeros_like(self.score), omega)
        return Targets(score @ factor, factor.T @ information @ factor, factor, self.known, omega)

    def take(self, rows: NDArray[np.int64]) -> "Targets":
        """Those of the subjects at some positions: of other subjects for the same images, in a permutation."""
        return Targets(self.score[rows], self.information[rows], self.factor, self.known.take(rows), self.omega)


def fold_numbers(n: int, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each of n subjects, (n,): of equal size to one, in an order that the seed alone decides."""
    order = np.argsort(uniforms(stream_key(seed, "image-folds"), [0], n)[0], kind="stable")
    out = np.empty(n, np.int64)
    out[order] = np.arange(n) % folds
    return out
