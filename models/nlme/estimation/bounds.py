"""Bounds of typical values: coordinates without bounds for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.models.nlme.estimation.population_parameters import link
from image_longitudinal.models.nlme.model.population import Parameter

FloatArray = NDArray[np.float64]
INSIDE = 1e-6  # of the width between two bounds (or of 1): how near to a bound a value is taken


class Bounds:
    """Coordinates x in (-∞, ∞) of values μ on the scale of the random effects, between L and U where there are bounds.

    μ = L + (U - L) / (1 + exp(-x)) between two bounds, μ = L + exp(x) above one, μ = U - exp(-x) below one, else μ = x.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        with np.errstate(divide="ignore"):
            self.low = np.array([-np.inf if p.lower is None else link(p.distribution, p.lower) for p in parameters])
            self.high = np.array([np.inf if p.upper is None else link(p.distribution, p.upper) for p in parameters])
        self.any = bool(np.isfinite(self.low).any() or np.isfinite(self.high).any())
        self._above, self._below = np.isfinite(self.low), np.isfinite(self.high)
        self._both = self._above & self._below
        self._width = np.ones(len(self.low))
        self._width[self._both] = (self.high - self.low)[self._both]

    def free(self, mu: FloatArray) -> FloatArray:
        """x of μ (p,); a value on or beyond a bound is taken just inside it."""
        if not self.any:
            return mu
        gap = INSIDE * self._width
        mu = np.clip(mu, self.low + gap, self.high - gap)
        x = mu.copy()
        both, above, below = self._both, self._above & ~self._below, self._below & ~self._above
        x[both] = np.log((mu - self.low)[both] / (self.high - mu)[both])
        x[above] = np.log((mu - self.low)[above])
        x[below] = -np.log((self.high - mu)[below])
        return x

    def bounded(self, x: FloatArray) -> FloatArray:
        """μ of x (p,)."""
        if not self.any:
            return x
        mu = x.copy()
        both, above, below = self._both, self._above & ~self._below, self._below & ~self._above
        mu[both] = self.low[both] + self._width[both] / (1.0 + np.exp(-x[both]))
        mu[above] = self.low[above] + np.exp(x[above])
        mu[below] = self.high[below] - np.exp(-x[below])
        return mu

    def slope(self, mu: FloatArray) -> FloatArray:
        """dμ / dx at μ (p,)."""
        slope = np.ones(len(mu))
        both, above, below = self._both, self._above & ~self._below, self._below & ~self._above
        slope[both] = ((mu - self.low) * (self.high - mu))[both] / self._width[both]
        slope[above] = (mu - self.low)[above]
        slope[below] = (self.high - mu)[below]
        return slope
