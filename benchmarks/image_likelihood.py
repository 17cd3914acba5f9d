"""Images learned within the marginal likelihood, against regression on empirical Bayes estimates and predictor (b).

    python -m benchmarks.image_likelihood               300 subjects with 4 visits each, 20 data sets, paired
    python -m benchmarks.image_likelihood --quick       3 of them
    python -m benchmarks.image_likelihood --large       20,000 training and 5,000 test subjects, by level
    python -m benchmarks.image_likelihood --large --levels 0.02 --train 5000 --test 2000

Phantoms at 32x32 and the population model of the published data set. Features are latents read from the images by a
regression that other phantoms taught (300 subjects; as an encoder would), or the training images (``--large``, as in an
evaluation). Every method gets the same features, outcomes and population. R² is pooled over the three random effects
of test subjects, whose true values no method sees; shares are of the realised ceiling, the R² of E[η | z].

300 subjects: the population is fitted to them by FOCEI; two of the effects are read well from images, one less.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.report import argument_parser, print_result
from image_longitudinal.core.config import GeneratorConfig
from image_longitudinal.core.random import normals, stream_key
from image_longitudinal.models.design.association import associate
from image_longitudinal.models.evaluation.image_informed import TrainingSubjects, fit_image_informed
from image_longitudinal.models.evaluation.pca_regressor import fit_pca_regressor
from image_longitudinal.models.image_effects.evidence import By
from image_longitudinal.models.image_effects.fitting import fit_image_effects
from image_longitudinal.models.image_effects.learners import Learning
from image_longitudinal.models.image_effects.linear_head import LinearLearner
from image_longitudinal.models.imaging.backends import load_image_model
from image_longitudinal.models.imaging.interface import ImageModel, generate_in_batches
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.ebes import empirical_bayes
from image_longitudinal.models.nlme.estimation.fit import fit
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.simulation.simulate import observe, simulate
from image_longitudinal.models.quality.recoverability import regression_reader

FloatArray = NDArray[np.float64]
Predict = Callable[[FloatArray], FloatArray]

MODEL = get_model("depot-central-mm")
VISITS = (2, 6, 12, 20)  # of the design's 21 times: 1, 3, 6 and 10
DIMS = (0, 2, 10)  # latent dimensions that serve as random effects: vertical position, curvature, choroid
TEST = 2_000
LEVELS = (1.0, 0.5, 0.1, 0.0526, 0.02)
FIRST = "two steps"


def main() -> None:
    """Print the table and the result line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--level", type=float, default=0.5, help="association of the 300 subjects")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS)
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--test", type=int, default=5_000)
    parser.add_argument("--by", nargs="+", choices=("focei", "imp"), default=("focei", "imp"))
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    began, cpu = time.perf_counter(), time.process_time()
    phantom = load_image_model(GeneratorConfig(backend="phantom", image_size=32), None, "cpu")
    if options.large:
        train, test = (2_000, 1_000) if options.quick else (options.train, options.test)
        figures: dict[str, object] = {
            "share_of_ceiling_percent": large(phantom, options.levels, train, test, options.by, options.workers),
            "training_subjects": train, "test_subjects": test,
        }  # fmt: skip
    else:
        figures = few(phantom, 3 if options.quick else options.seeds, options.level, options.by, options.workers)
    seconds = {"seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(time.process_time() - cpu, 1)}
    print_result(("numpy", "numba"), {"benchmark": "image_likelihood", **figures, **seconds})


def few(phantom: ImageModel, seeds: int, level: float, by: Sequence[By], workers: int) -> dict[str, object]:
    """300 subjects: R² of each method over data sets, and paired differences."""
    read = regression_reader(phantom, n=1_000, batch_size=256, seed=5)
    model = replace(MODEL, design=replace(MODEL.design, times=tuple(np.array(MODEL.design.times)[list(VISITS)])))
    n, found = 300, list[dict[str, float]]()
    for seed in range(1, seeds + 1):
        ids = np.arange(n + TEST)
        z = normals(stream_key(seed, "z"), ids, phantom.latent_dim)
        features = read(generate_in_batches(phantom, z.astype(np.float32), ids, 256))
        linked = z[:, DIMS]
        eta = associate(linked, level, omega=model.omega, seed=seed, ids=ids)
        observed = observe(model, simulate(model, eta[:n]), key=stream_key(seed, "noise"), ids=ids[:n])
        data = PopulationData.of_design(model.structural, observed, model.design.times, model.design.doses)
        fitted = fit(model, data, "FOCEI", covariance="none").model
        methods = predictors(fitted, observed, data, features[:n], ids[:n], by, workers)
        own = {name: pooled(eta[n:], predict(features[n:])) for name, predict in methods.items()}
        own["ceiling"] = pooled(eta[n:], np.sqrt(level) * linked[n:] @ np.linalg.cholesky(model.omega).T)
        found.append(own)
        print(f"seed {seed:>2}: " + ", ".join(f"{name} {value:.3f}" for name, value in own.items()), flush=True)
    means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    print("mean R²: " + ", ".join(f"{name} {value:.4f}" for name, value in means.items()))
    paired = {}
    for name in (f"likelihood, {one}" for one in by):
        for other in (FIRST, "regression, ridge", "(b)"):
            gains = np.array([one[name] - one[other] for one in found])
            p = float(stats.ttest_rel([one[name] for one in found], [one[other] for one in found]).pvalue)
            paired[f"{name} - {other}"] = [float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains))), p]
            wins = int((gains > 0).sum())
            error = gains.std(ddof=1) / np.sqrt(len(gains))
            print(f"{name} - {other}: {gains.mean():+.4f} ± {error:.4f}, better {wins} of {len(gains)}, p {p:.2g}")
    return {"level": level, "seeds": seeds, "mean_r2": means, "paired_difference_error_p": paired}


def large(
    phantom: ImageModel, levels: Sequence[float], train: int, test: int, by: Sequence[By], workers: int
) -> dict[str, dict[str, float]]:
    """Many subjects with all visits, the true population: percent of the realised ceiling by level and method."""
    ids, shares = np.arange(train + test), {}
    z = normals(stream_key(3, "z"), ids, phantom.latent_dim)
    images = generate_in_batches(phantom, z.astype(np.float32), ids, 256)
    reader = fit_pca_regressor(lambda: iter([(ids[:train], images[:train], z[:train].astype(np.float32))]))
    features = np.concatenate([reader.out_of_fold(images[:train], ids[:train]), reader(images[train:])])
    linked = z[:, DIMS]
    for level in levels:
        eta = associate(linked, level, omega=MODEL.omega, seed=3, ids=ids)
        observed = observe(MODEL, simulate(MODEL, eta[:train]), key=stream_key(3, "noise", level), ids=ids[:train])
        data = PopulationData.of_design(MODEL.structural, observed, MODEL.design.times, MODEL.design.doses)
        methods = predictors(MODEL, observed, data, features[:train], ids[:train], by, workers, two_steps=False)
        ceiling = pooled(eta[train:], np.sqrt(level) * linked[train:] @ np.linalg.cholesky(MODEL.omega).T)
        own = {name: 100 * pooled(eta[train:], f(features[train:])) / ceiling for name, f in methods.items()}
        shares[f"{level:g}"] = {name: round(value, 2) for name, value in own.items()}
        print(f"level {level:g}: " + ", ".join(f"{name} {value:.1f} %" for name, value in own.items()), flush=True)
    return shares


def predictors(
    model: PopulationModel, observed: FloatArray, data: PopulationData, features: FloatArray, ids: NDArray[np.int64],
    by: Sequence[By], workers: int, *, two_steps: bool = True,
) -> dict[str, Predict]:  # fmt: skip
    """Every method, by name, from features (m, F) to random effects (m, k)."""
    modes = empirical_bayes(model, observed, n_threads=workers).eta
    subjects = TrainingSubjects(ids, features, observed, modes)
    learner = LinearLearner(features)

    def learned(learning: Learning, own: By) -> Predict:
        return fit_image_effects(model, data, learner, learning=learning, by=own, workers=workers).head

    return {
        "regression, ridge": subjects.regression(modes).whole,
        **({FIRST: learned("two-step", by[0])} if two_steps else {}),
        "(b)": fit_image_informed(model, subjects, workers=workers).head,
        **{f"likelihood, {own}": learned("likelihood", own) for own in by},
    }


def pooled(truth: FloatArray, predicted: FloatArray) -> float:
    """R² over all effects together."""
    return float(1 - np.square(truth - predicted).sum() / np.square(truth - truth.mean(0)).sum())


if __name__ == "__main__":
    main()
