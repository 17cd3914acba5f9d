"""A quasi-Newton minimiser for objectives that are minus twice a log-likelihood."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Predicted decrease that counts as converged if rounding stops the descent: every estimate is within 0.3 standard
# errors of the minimum. At the end of fits of 2,000 subjects of the original's model by FOCE it was 0.002 to 0.007
# (0.12 standard errors); the rounding of a sum over 100,000 subjects is seven times that.
GOOD_ENOUGH = 5e-2
LONGEST = 0.5  # largest change of a coordinate (a logarithm, mostly) in one step
HALVINGS = 12


def minimise(
    function: Callable[[FloatArray], tuple[float, FloatArray]], start: FloatArray, curvature: FloatArray, limit: int,
    tolerance: float,
) -> tuple[FloatArray, bool, str]:  # fmt: skip
    """BFGS with backtracking (Nocedal & Wright, *Numerical Optimization*, ch. 6).

    Args:
        function: value and gradient (m,) at a point (m,).
        start: first point, (m,).
        curvature: symmetric positive definite approximation of the Hessian, (m, m).
        limit: number of iterations.
        tolerance: the search ends when half of gᵀ H⁻¹ g, the predicted decrease, is below this. Every estimate is then
            within √(2·tolerance) standard errors of the minimum.

    Returns:
        The best point, whether it is a minimum, and why the search ended.
    """
    x = start.copy()
    value, gradient = function(x)
    inverse = np.linalg.inv(curvature)
    fresh = True
    for _ in range(limit):
        move = -inverse @ gradient
        predicted_decrease = -0.5 * float(gradient @ move)
        if predicted_decrease < tolerance:
            return x, True, "converged"
        move *= min(1.0, LONGEST / float(np.abs(move).max()))
        found = _backtrack(function, x, value, gradient, move, tolerance)
        if found is None:
            if predicted_decrease < max(tolerance, GOOD_ENOUGH):
                return x, True, "converged to rounding"
            if fresh:
                return x, False, f"no descent found; {predicted_decrease:.3g} expected"
            inverse, fresh = np.linalg.inv(curvature), True
            continue
        new_x, new_value, new_gradient = found
        step, change = new_x - x, new_gradient - gradient
        curvature_along = float(step @ change)
        if curvature_along > 1e-10 * np.linalg.norm(step) * np.linalg.norm(change):
            factor = np.eye(len(x)) - np.outer(step, change) / curvature_along
            inverse = factor @ inverse @ factor.T + np.outer(step, step) / curvature_along
        x, value, gradient, fresh = new_x, new_value, new_gradient, False
    return x, False, f"not converged after {limit} iterations"


def _backtrack(
    function: Callable[[FloatArray], tuple[float, FloatArray]], x: FloatArray, value: float, gradient: FloatArray,
    move: FloatArray, tolerance: float,
) -> tuple[FloatArray, float, FloatArray] | None:  # fmt: skip
    """The first point along ``move`` with a sufficient part of the predicted decrease (Armijo), or None."""
    slope, size = float(gradient @ move), 1.0
    for _ in range(HALVINGS):
        point = x + size * move
        new, new_gradient = function(point)
        if new <= value + 1e-4 * size * slope:
            return point, new, new_gradient
        parabola = -0.5 * slope * size**2 / (new - value - slope * size)  # its minimum
        size = float(np.clip(parabola, 0.1 * size, 0.5 * size))
        if -size * slope < tolerance:
            return None
    return None
