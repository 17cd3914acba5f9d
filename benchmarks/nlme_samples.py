"""Errors of typical values over several samples of 10,000 subjects: what is the method's, and what is the sample's.

    python -m benchmarks.nlme_samples [--quick] [--samples 8] [--methods foce imp saem] [--workers 2]

The model and start values of :mod:`benchmarks.nlme_estimation` (1,000 subjects with ``--quick``). The maximum of one
sample's likelihood misses the truth by chance, so the error of one fit says little of its method. The mean of the
errors over samples is the method's bias; its standard error is printed beside it.
"""

import numpy as np

from benchmarks.nlme_estimation import MODEL, TRUE, measured, simulated
from benchmarks.report import argument_parser, print_result


def main() -> None:
    """Print a line for each fit, the table of means, and the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--methods", nargs="+", default=["foce", "imp", "saem"])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    n = 1_000 if options.quick else 10_000
    print(f"{'subjects':>10}{'method':>8}{'CPU s':>8}{'seconds':>9}{'evaluations':>13}{'largest θ error':>17}  end")
    errors: dict[str, list[np.ndarray]] = {method: [] for method in options.methods}
    for sample in range(1, options.samples + 1):
        data = simulated(n, options.workers, sample).data
        for method in options.methods:
            errors[method].append(measured(method, data, options.workers).fit.estimates[:3] / TRUE - 1.0)
    means = {method: np.mean(own, axis=0) for method, own in errors.items()}
    spreads = {method: np.std(own, axis=0, ddof=1) / np.sqrt(options.samples) for method, own in errors.items()}
    print(f"mean relative error over {options.samples} samples, ± its standard error")
    for method in options.methods:
        cells = zip(MODEL.typical_values, means[method], spreads[method], strict=True)
        print(f"{method:>10}  " + ", ".join(f"{name} {mean:+.2%} ± {error:.2%}" for name, mean, error in cells))
    print_result(("numpy", "numba"), {
        "benchmark": "nlme_samples", "subjects": n, "samples": options.samples,
        "parameters": list(MODEL.typical_values),
        "errors": {method: np.round(own, 5).tolist() for method, own in errors.items()},
        "mean_error": {method: own.tolist() for method, own in means.items()},
        "standard_error_of_mean": {method: own.tolist() for method, own in spreads.items()},
    })  # fmt: skip


if __name__ == "__main__":
    main()
