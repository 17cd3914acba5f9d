"""How much of each random effect's variance images explain: an estimate with its interval, and what chance gives."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.random import stream_key, uniforms
from image_longitudinal.models.evaluation.bootstrap import Estimate, Resampling
from image_longitudinal.models.image_effects.fitting import ImageEffects
from image_longitudinal.models.image_effects.learners import Learner, Learning, Targets
from image_longitudinal.models.image_effects.residual_omega import OmegaScores, likeliest_omega, omega_scores

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PermutationNull:
    """What images of other subjects give, in one round, against ``gain``, what the right ones give in one round.

    ``gains`` (P,): by how much held-out g lowers minus twice the log-likelihood; ``shares`` (P, k): explained.
    """

    gain: float
    gains: FloatArray
    shares: FloatArray

    @property
    def p(self) -> float:
        """Probability, by these permutations, of as large a gain if images say nothing (Phipson and Smyth 2010)."""
        return float((1 + (self.gains >= self.gain).sum()) / (1 + len(self.gains)))


def explained_shares(effects: ImageEffects, *, replicates: int = 1000, seed: int = 1) -> list[Estimate]:
    """1 - Ω_r / Ω of each random effect's variance, with the interval that a bootstrap over subjects gives.

    Both Ω are the likeliest, that around g with predictions for held-out subjects. In a resample they are one step of
    Fisher scoring away. A share may be negative: g is then further from the random effects than 0 is.

    Args:
        effects: the fit.
        replicates: resamples.
        seed: of the bootstrap.
    """
    if not effects.held_out.any():  # nothing was learned
        return [Estimate(0.0, 0.0, 0.0)] * len(effects.omega)
    none, diagonal = np.zeros_like(effects.held_out), _diagonal(len(effects.omega))
    around = omega_scores(effects.after, effects.held_out, effects.omega)
    without = omega_scores(effects.before, none, effects.total)
    m = around.score.shape[1]
    columns = np.concatenate([
        around.score, around.information.reshape(len(none), -1), without.score,
        without.information.reshape(len(none), -1),
    ], axis=1)  # fmt: skip
    cut = m + m * m
    left, all_of_it = np.diag(effects.omega), np.diag(effects.total)

    def share(means: FloatArray, effect: int) -> FloatArray:
        own = [_step(part, m)[:, diagonal[effect]] for part in (means[:, :cut], means[:, cut:])]
        after, before = np.maximum(left[effect] + own[0], 0.0), all_of_it[effect] + own[1]
        return np.asarray(1 - after / np.maximum(before, 1e-3 * all_of_it[effect]))

    resampled = Resampling(len(none), seed, replicates).of(columns)
    found = [resampled.estimate(partial(share, effect=effect)) for effect in range(len(left))]
    return [one._replace(value=float(1 - left[i] / all_of_it[i])) for i, one in enumerate(found)]


def permutation_null(
    effects: ImageEffects, learner: Learner, *, learning: Learning = "likelihood", permutations: int = 19,
    seed: int = 1, estimates: FloatArray | None = None,
) -> PermutationNull:  # fmt: skip
    """The first round again, with the images of each subject given to another: what a fit finds in noise.

    Args:
        effects: the fit; ``learner`` and ``learning`` are its own.
        permutations: of the subjects.
        seed: of the permutations.
        estimates: empirical Bayes estimates (n, k), for the two-step form.
    """
    known, total, n = effects.before, effects.total, len(effects.held_out)
    none = np.zeros_like(effects.held_out)
    if learning == "two-step":
        assert estimates is not None
        targets = Targets.of_estimates(estimates, total)
    else:
        targets = Targets.of_likelihood(known, total, total)

    def one(rows: NDArray[np.int64]) -> tuple[float, FloatArray]:
        """Gain and shares if image i is that of subject ``rows[i]``."""
        own, mean = known.take(rows), learner.cross_fit(targets.take(rows)).held_out
        omega = likeliest_omega(own, mean, total, total)
        gain = own.objective(none, total).sum() - own.objective(mean, omega).sum()
        return float(gain), 1 - np.diag(omega) / np.diag(total)

    draws = uniforms(stream_key(seed, "image-permutations"), np.arange(permutations), n)
    found = [one(np.argsort(row, kind="stable")) for row in draws]
    gains = np.array([gain for gain, _ in found])
    shares = np.array([share for _, share in found]).reshape(-1, len(total))
    return PermutationNull(one(np.arange(n))[0], gains, shares)


def _step(means: FloatArray, m: int) -> FloatArray:
    """Fisher scoring steps (R, m) of mean scores and informations, (R, m + m²)."""
    return OmegaScores(means[:, :m], means[:, m:].reshape(-1, m, m)).each()


def _diagonal(k: int) -> NDArray[np.int64]:
    """Places of Ω's diagonal in its lower triangle, (k,)."""
    rows, columns = np.tril_indices(k)
    return np.flatnonzero(rows == columns)
