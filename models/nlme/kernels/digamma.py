"""The digamma function in compiled code; its text is written into generated files that need it."""

import math

from image_longitudinal.models.nlme.kernels.compiled import compiled


@compiled
def digamma(x: float) -> float:
    """d/dx log Γ(x) for x > 0, to 1e-14 (relative, or absolute near its zero at 1.46).

    Upwards by ψ(x) = ψ(x + 1) - 1 / x to 10, where the asymptotic series (Abramowitz & Stegun 6.3.18) is that good.
    """
    total = 0.0
    while x < 10.0:
        total -= 1.0 / x
        x += 1.0
    u = 1.0 / (x * x)
    series = u * (1.0 / 12.0 - u * (1.0 / 120.0 - u * (1.0 / 252.0 - u * (1.0 / 240.0 - u * (1.0 / 132.0)))))
    return total + math.log(x) - 0.5 / x - series
