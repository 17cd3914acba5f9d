"""NUTS on a small model, end to end, and simulation-based calibration."""

from dataclasses import replace

import arviz as az
import numpy as np

from image_longitudinal.models.nlme.bayes.posterior import convergence_warnings, sample_posterior
from image_longitudinal.models.nlme.bayes.pymc_model import Information
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.results import load_results, save_results
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from tests.models.nlme.bayes.calibration import individual_ranks, population_ranks, simulated_outcomes, uniformity

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
    ranks = individual_ranks(DECAY, design(80), draws=99, thin=1, tune=100, seed=3)
    assert ranks.shape == (80, 1)
    assert 0 <= ranks.min() <= ranks.max() <= 99
    assert uniformity(ranks, 99) > 0.01
    assert uniformity(np.clip(50 + (ranks - 50) // 3, 0, 99), 99) < 1e-6  # as of posteriors three times too wide
    assert uniformity(np.minimum(ranks + 25, 99), 99) < 1e-6  # as of shifted ones


def test_chains_mix_recover_a_population_and_predict_its_data_from_a_start_that_is_far_off(tmp_path):
    # 12 subjects in closed form, from a typical value half as large again. With PyMC's own starts and non-centred
    # coordinates, this engine's before, one of two chains stood still on a trial of 20 (R-hat 2.3).
    data = replace(design(12), observed=simulated_outcomes(DECAY, design(12), seed=7)[1])
    far = replace(DECAY, parameters=(Parameter("ke", 0.8),))
    found = sample_posterior(far, data, draws=200, tune=100, chains=2)
    rhat = az.rhat(found, var_names=["typical", "omega_matrix", "error_scale"])
    assert max(float(rhat[name].max()) for name in rhat) < 1.05
    assert int(found["sample_stats"]["diverging"].sum()) <= 8  # 2 %: a spread near 0 cannot be excluded by 24 values
    assert not any("chains disagree about" in warning for warning in convergence_warnings(found))
    typical = found["posterior"]["typical"].sel(parameter="ke")
    assert abs(typical.mean() - 0.5) < 4 * typical.std()
    assert typical.std() < 0.2  # 12 subjects of spread 0.3: about 0.05
    assert found["posterior"]["omega_matrix"].shape == (2, 200, 1, 1)
    predicted = found["posterior_predictive"]["outcome"].values.reshape(400, -1)
    low, high = np.percentile(predicted, (2.5, 97.5), axis=0)
    assert ((low < data.observed) & (data.observed < high)).mean() > 0.85
    assert found["prior"]["typical"].values.std() > 3 * float(typical.std())
    kept = load_results(save_results(found, tmp_path / "posterior.nc"))
    np.testing.assert_array_equal(kept["posterior"]["typical"], found["posterior"]["typical"])
    assert "created_at" not in kept["posterior"].attrs


def drawn(typical, eta):
    chains, draws = typical.shape[:2]
    return az.from_dict(
        {"typical": typical, "eta": eta},
        sample_stats={"diverging": np.zeros((chains, draws), dtype=bool)},
        coords={"subject": [4, 8, 15]},
        dims={"eta": ["subject", "random_effect"]},
    )


def test_chains_that_disagree_about_a_subject_and_single_chains_are_reported():
    rng = np.random.default_rng(1)
    eta = rng.standard_normal((2, 300, 3, 1))
    eta[1, :, 2] += 4.0
    assert convergence_warnings(drawn(rng.standard_normal((2, 300, 1)), eta)) == [
        "The chains disagree about the random effects of 1 of 3 subjects (15): their posteriors have several modes, "
        "and chains seldom move between them."
    ]
    typical = np.stack([np.full((1, 900), 0.5), rng.standard_normal((1, 900))], axis=2)  # a fixed value: no warning
    found = drawn(typical, rng.standard_normal((1, 900, 3, 1)))
    assert convergence_warnings(found) == ["Convergence cannot be assessed from one chain."]


def test_population_values_are_calibrated_in_whitened_coordinates():
    # 30 populations of 5 subjects from the priors; ranks are uniform for any information that is assumed
    own = Information(np.full((5, 1, 1), 8.0), np.full((5, 1), 8.0 * np.log(0.5)))
    ranks = population_ranks(DECAY, design(5), replicates=30, draws=29, thin=3, tune=80, seed=1, information=own)
    assert set(ranks) == {"ke", "sd(eta_ke)", "error_scale"}
    for values in ranks.values():
        assert values.shape == (30,)
        assert 0 <= values.min() <= values.max() <= 29
        # three tests at 0.003: a right sampler fails one seed in a hundred, and this seed does not
        assert uniformity(values, 29, bins=5) > 0.003
