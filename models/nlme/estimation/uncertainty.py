"""Covariance of estimates, also where the data say nothing about some of them."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
NOTHING = 1e-12  # information, relative to the largest, that is the rounding of none
LARGEST = 0.75  # leverage of a subject that is corrected for (Fay & Graubard 2001, Biometrics 57:1198)
# share of a quantity's gradient along directions without information, from which on it depends on them; far above the
# root of NOTHING, up to which the objective's own gradient may have a part along them
DEPENDS = 1e-4


def covariance_of(
    information: FloatArray, score: FloatArray, jacobian: FloatArray, kind: str
) -> FloatArray | None:  # fmt: skip
    """Covariance (m, m) of quantities of a fit's coordinates; None if the objective has no minimum in what is known.

    Where no subject's gradient has a part along some direction of the coordinates, the data do not hold the quantities
    that change along it, and their rows and columns are NaN.

    Args:
        information: half the Hessian of minus twice the log-likelihood, or ``score``, (m, m).
        score: a quarter of the sum over subjects of the outer products of their gradients, (m, m).
        jacobian: derivatives of the quantities by the coordinates, (m, m).
        kind: ``sandwich``, ``hessian`` or ``gradient``.
    """
    values = np.linalg.eigvalsh(information)
    if values[0] > NOTHING * abs(values[-1]):
        matrix = np.linalg.inv(information)
        return jacobian @ (matrix @ score @ matrix if kind == "sandwich" else matrix) @ jacobian.T
    lost = _directions_without_information(score)
    basis = np.linalg.qr(np.concatenate([lost, np.eye(len(score))], axis=1))[0][:, lost.shape[1] : len(score)]
    inner = basis.T @ information @ basis
    if not basis.size or np.linalg.eigvalsh(inner)[0] <= 0:
        return None
    inverse = np.linalg.inv(inner)
    if kind == "sandwich":
        inverse = inverse @ (basis.T @ score @ basis) @ inverse
    natural = jacobian @ basis @ inverse @ basis.T @ jacobian.T
    along = np.linalg.norm(jacobian @ lost, axis=1) > DEPENDS * np.linalg.norm(jacobian, axis=1)
    natural[along], natural[:, along] = np.nan, np.nan
    return np.asarray(natural)


def corrected_score(gradients: FloatArray, hessians: FloatArray) -> FloatArray:
    """Outer products of the subjects' gradients (m, m), each as it was before it moved the estimates towards itself.

    At its end a fit has made the gradients smaller than they are at the truth, most of all those of subjects with much
    weight: the sandwich of few subjects is too small. A gradient s with Hessian h counts as (I - h H⁻¹)⁻¹ s, with H the
    sum of all h (Mancl & DeRouen 2001, Biometrics 57:126: the jackknife, in one step).

    Args:
        gradients: of each subject's half of minus twice the log-likelihood, (n, m).
        hessians: of the same, (n, m, m).
    """
    total = hessians.sum(axis=0)
    values, vectors = np.linalg.eigh(total)
    if not len(values) or values[0] <= NOTHING * abs(values[-1]):
        return np.asarray(gradients.T @ gradients)
    root, back = (vectors * values**-0.5) @ vectors.T, (vectors * values**0.5) @ vectors.T
    leverage, along = np.linalg.eigh(root @ hessians @ root)
    share = 1.0 / (1.0 - np.minimum(leverage, LARGEST))
    white = np.einsum("nab,na->nb", along, gradients @ root) * share
    own = np.einsum("nab,nb->na", along, white) @ back
    return np.asarray(own.T @ own)


def _directions_without_information(score: FloatArray) -> FloatArray:
    """An orthonormal basis (m, q) of the directions along which no subject's gradient has a part."""
    size = np.diag(score)
    some = size > NOTHING * size.max(initial=0.0)
    unit = np.eye(len(score))
    scale = np.sqrt(size[some])
    values, vectors = np.linalg.eigh(score[np.ix_(some, some)] / np.outer(scale, scale))
    null = vectors[:, values <= NOTHING * len(score)] / scale[:, None]
    return np.asarray(np.linalg.qr(np.concatenate([unit[:, ~some], unit[:, some] @ null], axis=1))[0])
