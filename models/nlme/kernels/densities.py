"""Log densities of observations at given predictions, subject by subject."""

import math

from image_longitudinal.models.nlme.kernels.cached import cached_kernel
from image_longitudinal.models.nlme.kernels.likelihood import LOG_NORMAL_ERROR, log_tail, variance

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@cached_kernel
def subject_densities(kinds, error, observed, endpoint, censored, row_start, f, out):  # type: ignore[no-untyped-def]
    """``out`` (n,) ← log density of each subject's rows at predictions f (N,).

    A censored row contributes the probability of values below its limit (M3; Beal 2001, J Pharmacokinet
    Pharmacodyn 28:481). -inf where a prediction makes an observation impossible.

    Args:
        kinds: of residual error by endpoint, places in model.residual_error.KINDS.
        error: additive, proportional and power of each endpoint in turn.
        observed, endpoint, censored, row_start: as in PopulationData.
    """
    for i in range(out.size):
        total = 0.0
        for j in range(row_start[i], row_start[i + 1]):
            y, e = observed[j], endpoint[j]
            r, _ = variance(kinds[e], error[3 * e : 3 * e + 3], f[j])
            residual = y - f[j]
            if kinds[e] == LOG_NORMAL_ERROR:
                if not f[j] > 0.0:
                    total = -math.inf
                    break
                residual = math.log(y / f[j])
            if not r > 0.0:
                total = -math.inf
                break
            if censored[j]:
                total += log_tail(residual / math.sqrt(r))[0]
            else:
                total -= 0.5 * (residual * residual / r + math.log(r)) + HALF_LOG_2PI
                if kinds[e] == LOG_NORMAL_ERROR:
                    total -= math.log(y)
        out[i] = total if total == total else -math.inf
