import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.library import get_model
from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.simulation.simulate import simulate
from image_longitudinal.models.nlme.simulation.visits import Visits

TIMES = tuple(np.arange(0.0, 10.5, 0.5))
IRREGULAR = Visits(TIMES, (0.0, 4.0), jitter=0.2, missed=0.1, dropout=0.3)


def test_a_subject_keeps_its_visits_in_any_company():
    times, seen = IRREGULAR.draw(3, np.arange(50))
    for start, stop in ((0, 7), (7, 50), (31, 32)):
        some = IRREGULAR.draw(3, np.arange(start, stop))
        assert np.array_equal(some[0], times[start:stop])
        assert np.array_equal(some[1], seen[start:stop])
    assert not np.array_equal(IRREGULAR.draw(4, np.arange(50))[0], times)


def test_visits_move_within_the_jitter_but_not_the_first_nor_those_with_a_dose():
    moved = IRREGULAR.draw(1, np.arange(4000))[0] - TIMES
    still = np.isin(TIMES, (0.0, 4.0))
    assert (moved[:, still] == 0.0).all()
    assert 0.19 < np.abs(moved[:, ~still]).max() <= 0.2
    # uniform on ±0.2: sd of the mean over 76,000 visits 0.0004
    assert abs(moved[:, ~still].mean()) < 0.002


def test_missed_visits_and_dropout_have_their_probabilities():
    # standard errors: 0.0011 for missed (80,000 visits), 0.0073 for dropout (4,000 subjects); four of them
    missed = Visits(TIMES, missed=0.1).draw(1, np.arange(4000))[1]
    assert missed[:, 0].all()
    assert abs(1 - missed[:, 1:].mean() - 0.1) < 0.0045
    stayed = Visits(TIMES, dropout=0.3).draw(1, np.arange(4000))[1]
    assert abs(1 - stayed[:, -1].mean() - 0.3) < 0.029
    assert abs(stayed[:, 10].mean() - 0.7**0.5) < 0.029  # half-way, at a constant hazard
    assert (np.diff(stayed.astype(int), axis=1) <= 0).all()  # nobody comes back


def test_switching_one_thing_on_leaves_the_others_as_they_were():
    alone, together = Visits(TIMES, missed=0.1).draw(1, np.arange(9)), IRREGULAR.draw(1, np.arange(9))
    assert not (together[1] & ~alone[1]).any()


@pytest.mark.parametrize("name", ["depot-central-mm", "one-compartment"])
def test_each_subject_is_predicted_at_its_own_times(name):
    model = get_model(name)
    doses = [Dose(0.0, 1.0), Dose(4.0, 1.0, duration=0.7)]
    eta = np.random.default_rng(2).standard_normal((6, model.n_random_effects))
    times, _ = IRREGULAR.draw(3, np.arange(6))
    together = simulate(model, eta, times, doses, n_threads=2)
    for row in range(6):
        assert np.array_equal(together[row], simulate(model, eta[row : row + 1], times[row], doses)[0])


def test_unsorted_times_of_a_subject_are_refused_by_its_id():
    times = [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [0.0, 2.0, 1.0]]
    with pytest.raises(ConfigError, match=r"unsorted observation times.*subject 2, position 2"):
        simulate(get_model("depot-central-mm"), np.zeros((3, 3)), times)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"jitter": 0.25}, r"jitter.*0\.5 / 2.*0\.25"), ({"missed": 1.0}, "missed"), ({"dropout": -0.1}, "dropout")],
)
def test_an_impossible_schedule_is_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        Visits(TIMES, **wrong)
