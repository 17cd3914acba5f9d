import numpy as np
import pytest

from image_longitudinal.core.errors import SimulationError
from image_longitudinal.models.nlme.bayes.pymc_model import Prediction, bayesian_model
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.simulation.simulate import simulate

WHITE = "phi_whitened__"  # for Ω = I and data taken to say nothing it is η


@pytest.fixture(scope="module")
def small(original):
    eta = np.random.default_rng(3).standard_normal((3, 3))
    observed = simulate(original, eta) + 0.01
    return PopulationData.of_design(original.structural, observed, original.design.times, original.design.doses)


def test_fast_kernel_equals_the_pymc_prediction_on_10_000_subjects(original, stress_eta):
    # the PyMC model integrates the symbolic equations at 1e-10 per step; 1e-6 is what the kernel promises
    fast = simulate(original, stress_eta)
    data = PopulationData.of_design(original.structural, fast, original.design.times, original.design.doses)
    model = bayesian_model(original, data)
    predict = model.compile_fn(model["prediction"], inputs=[model["phi"]], point_fn=False)
    phi = np.log(list(original.typical_values.values())) + stress_eta
    assert np.abs(predict(phi).reshape(fast.shape) - fast).max() < 1e-6


def test_gradient_of_the_log_density_equals_finite_differences(original, small):
    model = bayesian_model(original, small)
    logp, gradient = model.compile_logp(), model.compile_dlogp()
    z = np.random.default_rng(8).standard_normal((3, 3))
    got = gradient({WHITE: z}).reshape(3, 3)
    for cell in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[cell] = 1e-5
        difference = (logp({WHITE: z + step}) - logp({WHITE: z - step})) / 2e-5
        assert got[cell] == pytest.approx(difference, rel=1e-6, abs=1e-6)


def test_log_density_is_the_sum_of_normal_densities(original, small):
    from scipy.stats import norm

    z = np.full((3, 3), 0.3)
    expected = norm.logpdf(z).sum() + norm.logpdf(small.observed, simulate(original, z).ravel(), 0.01).sum()
    # predictions agree to 1e-7, and the density changes by (residual / sigma²) = 1e4 times that per observation
    assert bayesian_model(original, small).compile_logp()({WHITE: z}) == pytest.approx(expected, rel=1e-5)


def test_a_subject_that_cannot_be_integrated_is_named(original, small):
    model = bayesian_model(original, small)
    predict = model.compile_fn(model["prediction"], inputs=[model["phi"]], point_fn=False)
    phi = np.zeros((3, 3))
    phi[1, 0] = np.nan
    with pytest.raises(SimulationError, match="subject 1"):
        predict(phi)


def test_with_priors_every_unknown_has_a_finite_density_and_the_right_gradient(original, small):
    model = bayesian_model(original, small, estimate=True)
    names = {variable.name for variable in model.free_RVs}
    assert names == {"omega", "phi", "shift_ka", "shift_imax", "shift_ic50", "error_scale"}
    fast = "FAST_COMPILE"  # dozens of C files otherwise, for a handful of evaluations
    logp, gradient = model.compile_logp(mode=fast), model.compile_dlogp(mode=fast)
    point = model.initial_point(random_seed=1)
    layout, got, position = list(point), gradient(point), 0
    for name in [variable.name for variable in model.value_vars]:
        assert name in layout
        for cell in np.ndindex(point[name].shape):
            step = np.zeros(point[name].shape)
            step[cell] = 1e-5
            up, down = (point | {name: point[name] + sign * step} for sign in (1, -1))
            difference = (logp(up) - logp(down)) / 2e-5
            # 1e-6 of the value, and of the density's size (1e5) times rounding over the step
            assert got[position] == pytest.approx(difference, rel=1e-6, abs=1e-4)
            position += 1
    assert position == len(got)
    assert np.isfinite(logp(point))


def test_where_equations_cannot_be_integrated_it_raises_or_where_nuts_proposes_gives_nan(original):
    data = PopulationData.of_design(
        original.structural, np.zeros((2, 21)), original.design.times, original.design.doses
    )
    parameters = np.array([[1.0, 2.1, 0.4], [0.0, np.inf, 0.0]])
    with pytest.raises(SimulationError, match="subject 1"):
        evaluated(Prediction(original.structural, data), parameters)
    assert np.isnan(evaluated(Prediction(original.structural, data, raises=False), parameters)).all()


def evaluated(op, parameters):
    """What the operation gives, without compiling a graph around it."""
    out = [[None], [None]]
    op.perform(None, [parameters], out)
    return out[0][0]
