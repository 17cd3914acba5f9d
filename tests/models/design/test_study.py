"""The order of evaluation: every knob moves what is downstream of it alone, and the numbers are those designed.

Sizes are such that a test takes seconds; tolerances are multiples of the sampling error, with seeds fixed.
"""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from image_longitudinal.core.config import OutcomesConfig
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.design import quadrature
from image_longitudinal.models.design.association import associate, associate_each, noise_factor
from image_longitudinal.models.design.potential_outcomes import potential_outcomes
from image_longitudinal.models.design.quadrature import causal_design
from image_longitudinal.models.design.study import StudyDesign, check_study
from image_longitudinal.models.design.study_model import study_model, true_omega
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.simulation.simulate import simulate
from tests.models.design.designs import CONFOUNDED, COVARIATES, ETA_DIMS, EVERYTHING, LATENT_DIM, SITES, TWO_ARMS, study
from tests.models.design.designs import design as made

N = 20_000
IDS = np.arange(N)


def variables(one: StudyDesign, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Every variable of subjects by name."""
    drawn = one.draw(ids)
    potential = potential_outcomes(one, drawn)
    rows = np.arange(len(ids))
    found = {"latents": drawn.latents, "eta": drawn.eta, "arm": drawn.arm, "propensity": drawn.propensities}
    found |= {f"covariate {name}": values for name, values in drawn.covariates.items()}
    found |= {f"effect {number} {name}": values for (number, name), values in drawn.effects.items()}
    found |= {f"outcome {number}": values for number, values in enumerate(potential.dv)}
    found["observed"] = potential.taken(drawn.arm)[1]
    if drawn.confounder is not None:
        found["confounder"] = drawn.confounder
    if one.study.sites:
        found["site"] = one.draw_sites(drawn, potential.functionals[one.study.functional][drawn.arm, rows])
    return found


def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not np.array_equal(before[name], after[name])}


ASSIGNED = {"arm", "propensity", "confounder", "observed", "covariate stage", "site"}  # stage and site follow the arm
KNOBS: list[tuple[str, dict[str, Any], set[str]]] = [
    ("auc", {"assignment": {**CONFOUNDED, "auc": 0.8}}, ASSIGNED - {"confounder"}),
    ("prognosis of the confounder", {"assignment": {**CONFOUNDED, "prognosis": 0.5}}, ASSIGNED),
    ("effect", {"arms": [TWO_ARMS[0], {**TWO_ARMS[1], "effects": [{**TWO_ARMS[1]["effects"][0], "mean": 0.2}]}]},
     {"effect 1 ic50", "outcome 1", "observed", "site"}),
    ("image share of the effect",
     {"arms": [TWO_ARMS[0], {**TWO_ARMS[1], "effects": [{**TWO_ARMS[1]["effects"][0], "image_share": 0.1}]}]},
     {"effect 1 ic50", "outcome 1", "observed", "site"}),
    ("doses of an arm", {"arms": [TWO_ARMS[0], {**TWO_ARMS[1], "doses": [{"amt": 2.0}]}]},
     {"outcome 1", "observed", "site"}),
    ("level of a covariate that acts", {"covariates": [{**COVARIATES[0], "level": 0.1}, *COVARIATES[1:]]},
     {"covariate weight", "outcome 0", "outcome 1", "observed", "site"}),
    ("level of a covariate that does not",
     {"covariates": [COVARIATES[0], {**COVARIATES[1], "level": 0.0}, COVARIATES[2]]},
     {"covariate sex"}),
    ("level of the arm's covariate", {"covariates": [*COVARIATES[:2], {**COVARIATES[2], "level": 0.0}]},
     {"covariate stage"}),
    ("shortcut", {"shortcut": {"to": "outcome", "correlation": 0.1}}, {"site"}),
    ("association of an effect", {"association": [{"effect": "ka", "level": 0.9}]},
     {"eta", "outcome 0", "outcome 1", "covariate sex"} | ASSIGNED),
    ("shares of the arms", {"arms": [{**TWO_ARMS[0], "share": 0.4}, {**TWO_ARMS[1], "share": 0.6}]},
     ASSIGNED - {"confounder"}),
    ("strength of a site", {"sites": [SITES[0], {**SITES[1], "strength": 2.0}, SITES[2]]}, set()),
]  # fmt: skip


def quickly_made(**values: Any) -> StudyDesign:
    """A design whose numbers by quadrature are rough: what depends on what is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quadrature, "POINTS", 2**9)
        return made(**values)


@pytest.fixture(scope="module")
def everything() -> tuple[StudyDesign, dict[str, np.ndarray]]:
    one = quickly_made(**EVERYTHING)
    return one, variables(one, np.arange(4000))


@pytest.mark.parametrize(("changed", "downstream"), [knob[1:] for knob in KNOBS], ids=[knob[0] for knob in KNOBS])
def test_a_knob_moves_what_is_downstream_of_it_and_nothing_else(
    everything: tuple[StudyDesign, dict[str, np.ndarray]], changed: dict[str, Any], downstream: set[str]
) -> None:
    assert moved(everything[1], variables(quickly_made(**{**EVERYTHING, **changed}), np.arange(4000))) == downstream


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any] | None:
    """Both changes of :data:`EVERYTHING`; None where both change the same value."""
    out = dict(EVERYTHING)
    for name in first.keys() | second.keys():
        if name in first and name in second:
            if (both := _merged(EVERYTHING.get(name), first[name], second[name])) is None:
                return None
            out[name] = both
        else:
            out[name] = first.get(name, second.get(name))
    return out


def _merged(base: Any, first: Any, second: Any) -> Any:
    if first == base or second == base:
        return second if first == base else first
    if isinstance(base, dict) and isinstance(first, dict) and isinstance(second, dict):
        parts = {key: _merged(base.get(key), first.get(key), second.get(key)) for key in first.keys() | second.keys()}
        return None if any(value is None for value in parts.values()) else parts
    if isinstance(base, list) and len(base) == len(first) == len(second):
        items = [_merged(*each) for each in zip(base, first, second, strict=True)]
        return None if any(item is None for item in items) else items
    return None


def test_two_knobs_move_what_is_downstream_of_either(everything: tuple[StudyDesign, dict[str, np.ndarray]]) -> None:
    """Over all pairs of knobs that can be moved at once."""
    tried = 0
    for (name, first, down), (other, second, other_down) in combinations(KNOBS, 2):
        if (both := merged(first, second)) is not None:
            tried += 1
            found = moved(everything[1], variables(quickly_made(**both), np.arange(4000)))
            assert found <= down | other_down, (name, other)
    assert tried > 50


def test_a_subject_does_not_depend_on_the_others(everything: tuple[StudyDesign, dict[str, np.ndarray]]) -> None:
    one, whole = everything
    some = np.array([3, 17, 250])
    for name, values in variables(one, some).items():
        rows = whole[name][some]
        np.testing.assert_array_equal(values, rows, err_msg=name)


def test_without_a_study_the_published_outcomes_stay() -> None:
    """A study of one arm without effects makes the random effects and observations of none, bit for bit."""
    one = made(covariates=[{"name": "age"}])
    drawn = one.draw(IDS[:50])
    model = get_model("depot-central-mm")
    np.testing.assert_array_equal(drawn.eta, associate(drawn.linked, 0.5, omega=model.omega, seed=1, ids=IDS[:50]))
    predicted = simulate(model, drawn.eta, OutcomesConfig().times)
    np.testing.assert_array_equal(potential_outcomes(one, drawn).functionals["outcome"][0], predicted[:, -1])


def test_the_shares_that_the_image_explains_are_those_designed() -> None:
    """Correlations of 20,000 subjects: standard errors of R² below .007."""
    one = made(**EVERYTHING)
    drawn = one.draw(IDS)
    for name, values, share in (
        ("effect drug ic50", drawn.effects[1, "ic50"], 0.5), ("confounder", drawn.confounder, 0.4),
        ("covariate weight", np.log(drawn.covariates["weight"]), 0.3),
    ):  # fmt: skip
        normal = one.normals[name]
        assert normal.explained == pytest.approx(share, abs=1e-12)
        assert normal.explained + normal.noise @ normal.noise + normal.own**2 == pytest.approx(1, abs=1e-12)
        assert np.corrcoef(values, normal.of_image(drawn.latents))[0, 1] ** 2 == pytest.approx(share, abs=0.02)
    prognosis = drawn.eta @ np.array(one.prognosis_weights)
    assert np.corrcoef(drawn.confounder, prognosis)[0, 1] == pytest.approx(0.6, abs=0.02)
    assert np.corrcoef(drawn.arm, drawn.covariates["stage"])[0, 1] > 0.3
    assert [np.mean(drawn.covariates["stage"] == k) for k in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.015)


def test_effect_bias_and_recovery_by_the_true_propensity() -> None:
    """Each within 3 standard errors of the quadrature, seed fixed."""
    one = made(**EVERYTHING)
    designed, drawn = causal_design(one)[1], one.draw(IDS)
    y = potential_outcomes(one, drawn).functionals["area"]
    effect, treated = y[1] - y[0], drawn.arm == 1
    assert effect.mean() == pytest.approx(designed.effect, abs=3 * effect.std() / np.sqrt(N))
    naive = y[1][treated].mean() - y[0][~treated].mean()
    error = np.sqrt(y[1][treated].var() / treated.sum() + y[0][~treated].var() / (~treated).sum())
    assert naive - effect.mean() == pytest.approx(designed.bias, abs=3 * error)
    assert designed.bias > 5 * error
    p, observed = drawn.propensities[:, 1], y[drawn.arm, IDS]
    weighted = observed * (treated / p - ~treated / (1 - p))
    assert weighted.mean() == pytest.approx(designed.effect, abs=3 * weighted.std() / np.sqrt(N))


def test_a_randomised_study_has_no_bias() -> None:
    assert causal_design(made(arms=TWO_ARMS, functional="area"))[1].bias == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
def test_each_random_effect_has_its_own_association(level: float) -> None:
    one = made(association=[{"effect": "imax", "level": level}])
    drawn = one.draw(IDS)
    r2 = [np.corrcoef(drawn.linked[:, k], drawn.eta[:, k])[0, 1] ** 2 for k in range(3)]
    assert r2 == pytest.approx([0.5, level, 0.5], abs=0.02)  # standard error .005
    plain = made(arms=TWO_ARMS).draw(IDS)
    np.testing.assert_array_equal(drawn.eta[:, [0, 2]], plain.eta[:, [0, 2]])


def test_correlated_random_effects_keep_their_shares_and_their_covariance() -> None:
    omega = np.array([[1.0, 0.4], [0.4, 0.5]])
    z = np.random.default_rng(1).standard_normal((N, 2))
    linked = z @ np.linalg.cholesky(omega).T
    eta = associate_each(linked, (0.6, 0.3), level=0.5, omega=omega, seed=3, ids=IDS)
    np.testing.assert_allclose(np.cov(eta.T), omega, atol=0.03)  # standard errors below .01
    r2 = [np.corrcoef(linked[:, k], eta[:, k])[0, 1] ** 2 for k in range(2)]
    assert r2 == pytest.approx([0.6, 0.3], abs=0.02)


def test_levels_that_a_covariance_does_not_allow_are_refused_with_those_that_it_does() -> None:
    omega = np.array([[1.0, 0.95], [0.95, 1.0]])
    with pytest.raises(ConfigError, match=r"0\.\d+ to \d[.\d]* for effect 1; or 0\.\d+ to 0\.\d+ for effect 2"):
        noise_factor((0.9, 0.1), omega)
    assert noise_factor((0.5, 0.5), omega) == pytest.approx(np.sqrt(0.5) * np.linalg.cholesky(omega), abs=1e-12)


def test_the_model_of_fits_predicts_what_was_simulated() -> None:
    """Covariates and the arm's effect written symbolically; the kernels integrate to a tolerance of 1e-6."""
    one = made(arms=TWO_ARMS, covariates=COVARIATES[:1], functional="area")
    drawn = one.draw(IDS[:30])
    model = study_model(one.study, one.model)
    assert model.random_effect_names == (*one.model.random_effect_names, "eta_tau_drug_ic50")
    random = np.column_stack([drawn.eta, drawn.effects[1, "ic50"] - 0.7])
    for arm in (0.0, 1.0):
        covariates = {"arm": np.full(30, arm), "weight": drawn.covariates["weight"]}
        predicted = simulate(model, random, one.outcomes.times, covariates=covariates)
        expected = potential_outcomes(one, drawn).functionals["outcome"][int(arm)]
        np.testing.assert_allclose(predicted[:, -1], expected, atol=2e-5)
    omega = true_omega(one)
    together = np.cov(np.column_stack([drawn_all(one), one.draw(IDS).effects[1, "ic50"]]).T)
    np.testing.assert_allclose(together, omega, atol=0.04)  # standard errors below .012


def drawn_all(one: StudyDesign) -> np.ndarray:
    return one.draw(IDS).eta


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"arms": [TWO_ARMS[0], {**TWO_ARMS[1], "effects": [{"parameter": "emax"}]}]}, "ka, imax, ic50"),
        ({"arms": [TWO_ARMS[0], {**TWO_ARMS[1], "covariates": [{"name": "concentration", "value": 1}]}]}, "sets"),
        ({"association": [{"effect": "vmax", "level": 0.5}]}, "ka, imax, ic50"),
        ({"entries": [1, 99]}, "dimensions from 0 to 7"),
        ({"covariates": [{"name": "age", "linked_to": "image", "level": 1, "direction": [1.0]}]}, "3 weights"),
        ({"arms": TWO_ARMS, "assignment": {**CONFOUNDED, "image_share": 0.9}}, r"0\.\d+ to 0\.\d+ at prognosis 0\.6"),
        ({"arms": TWO_ARMS, "assignment": {**CONFOUNDED, "auc": 1.2}}, r"0\.5 .* to 0\.99\d+ .* got 1\.2"),
        ({"arms": TWO_ARMS, "assignment": {**CONFOUNDED, "auc": 0.4}}, r"0\.5 .* to 0\.99\d+ .* got 0\.4"),
        ({"sites": SITES, "arms": TWO_ARMS, "shortcut": {"to": "arm", "correlation": 0.99}}, r"-0\.\d+ to 0\.\d+ with"),
        ({"prognosis": [0, 0, 0], "covariates": COVARIATES[1:2]}, "a weight for each of ka, imax, ic50"),
    ],
)  # fmt: skip
def test_a_design_that_cannot_be_had_is_refused_with_what_can(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_study(study(**values), OutcomesConfig(), 1, (0.5,), LATENT_DIM, ETA_DIMS)


def test_what_depends_on_random_effects_needs_one_level() -> None:
    with pytest.raises(ConfigError, match="needs one association level"):
        check_study(study(**EVERYTHING), OutcomesConfig(), 1, (0.5, 0.1), LATENT_DIM, ETA_DIMS)
    check_study(study(arms=TWO_ARMS, covariates=COVARIATES[:1]), OutcomesConfig(), 1, (0.5, 0.1), LATENT_DIM, ETA_DIMS)
    check_study(study(), OutcomesConfig(), 1, (0.5, 0.1), LATENT_DIM, ETA_DIMS)


def test_a_model_whose_covariate_nobody_gives_is_refused() -> None:
    outcomes = OutcomesConfig(model="visual-acuity-age", times=(0, 28), doses=({"amt": 0.5},))
    with pytest.raises(ConfigError, match=r"needs covariates.*age"):
        check_study(study(arms=[*TWO_ARMS[:1], {"name": "b", "share": 0.5}]), outcomes, 1, (0.5,), 8, (0, 1, 2, 3))
