"""NUTS on a small model, end to end, and simulation-based calibration."""

from dataclasses import replace

import numpy as np
import pytest

from models.nlme import symbolic as s
from models.nlme.data import PopulationData
from models.nlme.population import Design, Parameter, PopulationModel
from models.nlme.posterior import doubts, individual_ranks, population_ranks, sample_posterior, uniformity
from models.nlme.residual import ResidualError
from models.nlme.results import load, save
from models.nlme.structural import StructuralModel

QUICK = {"mode": "FAST_COMPILE"}  # dozens of C files otherwise
DECAY = PopulationModel(
    name="decay",
    structural=StructuralModel("decay", (), ("ke",), lambda t, x, p: {}, lambda t, x, p: 10 * s.exp(-p.ke * t)),
    parameters=(Parameter("ke", 0.5),),
    omega=((0.09,),),
    residual=ResidualError("additive", additive=0.5),
    design=Design((1.0, 3.0), ()),
)


def design(n):
    return PopulationData.of_design(DECAY.structural, np.ones((n, 2)), DECAY.design.times, ())


def test_individual_posteriors_are_calibrated_and_a_wrong_model_is_not():
    ranks = individual_ranks(DECAY, design(80), draws=99, thin=1, tune=100, seed=3, compile_kwargs=QUICK)
    assert ranks.shape == (80, 1)
    assert 0 <= ranks.min() <= ranks.max() <= 99
    assert uniformity(ranks, 99) > 0.01
    assert uniformity(np.clip(50 + (ranks - 50) // 3, 0, 99), 99) < 1e-6  # as of posteriors three times too wide
    assert uniformity(np.minimum(ranks + 25, 99), 99) < 1e-6  # as of shifted ones


def test_nuts_recovers_a_population_and_predicts_its_data(tmp_path):
    from models.nlme.posterior import _simulated

    data = replace(design(12), observed=_simulated(DECAY, design(12), seed=7)[1])
    far = replace(DECAY, parameters=(Parameter("ke", 0.8),))
    found = sample_posterior(far, data, draws=60, tune=80, chains=1, compile_kwargs=QUICK)
    typical = found["posterior"]["typical"].sel(parameter="ke")
    assert abs(typical.mean() - 0.5) < 4 * typical.std()
    assert typical.std() < 0.2  # 12 subjects of spread 0.3: about 0.05
    assert found["posterior"]["omega_matrix"].shape == (1, 60, 1, 1)
    predicted = found["posterior_predictive"]["outcome"].values[0]
    low, high = np.percentile(predicted, (2.5, 97.5), axis=0)
    assert ((low < data.observed) & (data.observed < high)).mean() > 0.85
    prior = found["prior"]["typical"].values
    assert prior.std() > 3 * float(typical.std())
    assert "With one chain nothing can be said about convergence." in doubts(found)
    kept = load(save(found, tmp_path / "posterior.nc"))
    np.testing.assert_array_equal(kept["posterior"]["typical"], found["posterior"]["typical"])
    assert "created_at" not in kept["posterior"].attrs


def test_calibration_of_the_population_ranks_every_unknown():
    ranks = population_ranks(DECAY, design(5), replicates=1, draws=10, thin=1, tune=10, seed=1, compile_kwargs=QUICK)
    assert set(ranks) == {"shift_ke", "omega_stds_0", "error_scale"}
    assert all(values.shape == (1,) and values.max() <= 10 for values in ranks.values())


@pytest.mark.parametrize("draws", [99, 100])
def test_uniform_ranks_pass(draws):
    ranks = np.random.default_rng(1).integers(0, draws + 1, 5000)
    assert uniformity(ranks, draws) > 0.01
