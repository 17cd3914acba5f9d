"""Covariance of estimates, also where the data say nothing about some of them."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
NOTHING = 1e-12  # information, relative to the largest, that is the rounding of none
DEPENDS = 1e-6  # share of a quantity's gradient along such directions from which on it depends on them


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


def _directions_without_information(score: FloatArray) -> FloatArray:
    """An orthonormal basis (m, q) of the directions along which no subject's gradient has a part."""
    size = np.diag(score)
    some = size > NOTHING * size.max(initial=0.0)
    unit = np.eye(len(score))
    scale = np.sqrt(size[some])
    values, vectors = np.linalg.eigh(score[np.ix_(some, some)] / np.outer(scale, scale))
    null = vectors[:, values <= NOTHING * len(score)] / scale[:, None]
    return np.asarray(np.linalg.qr(np.concatenate([unit[:, ~some], unit[:, some] @ null], axis=1))[0])
