"""Bootstrap of a fit: which subjects are drawn, what does not depend on threads, what does not count."""

import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError, SimulationError
from image_longitudinal.models.nlme.estimation.fit import fit
from image_longitudinal.models.nlme.intervals.bootstrap import (
    FEWEST,
    bootstrap,
    bootstrap_rows,
    drawn_subjects,
    problems,
)
from tests.models.nlme.intervals.decay import fitted, refit


def test_subjects_are_drawn_within_strata_by_seed_and_number():
    strata = ["a"] * 5 + ["b"] * 20
    drawn = drawn_subjects(25, 1, 0, strata)
    assert sorted(np.unique(drawn[:5])) == sorted(set(drawn[:5].tolist()))
    assert drawn[:5].max() < 5 <= drawn[5:].min()
    assert not np.array_equal(drawn, drawn_subjects(25, 1, 1, strata))
    assert not np.array_equal(drawn, drawn_subjects(25, 2, 0, strata))
    counts = np.bincount(np.concatenate([drawn_subjects(25, 1, i) for i in range(400)]), minlength=25)
    # each of 25 subjects 400 times in the mean, standard deviation 20: five of them either way
    assert np.abs(counts - 400).max() < 100


def test_replicates_do_not_depend_on_threads_and_go_on_at_any_number():
    found, data = fitted()
    alone = sorted(bootstrap(found, data, refit, range(6), seed=3), key=lambda one: one.number)
    together = [*bootstrap(found, data, refit, [5, 1, 3], seed=3, n_threads=2)]
    assert {one.number: one for one in together} == {i: alone[i] for i in (1, 3, 5)}
    assert all(not one.problem for one in alone)
    again = refit(found.model, data.take(drawn_subjects(len(data), 3, 2)), ())
    assert alone[2].estimates == tuple(again.estimates.tolist())
    assert alone[2].objective == again.objective


def test_standard_errors_are_those_of_the_sandwich_and_intervals_hold_the_estimate():
    found, data = fitted()
    rows = bootstrap_rows(found, [*bootstrap(found, data, refit, range(48), n_threads=2)])
    for row, error in zip(rows, found.standard_errors, strict=True):
        # 48 replicates: the standard deviation is known to 10 %; 60 subjects: the sandwich to about 15 %
        assert row.standard_error == pytest.approx(error, rel=0.5), row.name
        assert row.lower < row.estimate < row.upper
        assert row.lower < row.median < row.upper
        assert abs(row.bias) < row.standard_error


def test_what_fails_is_counted_by_reason_and_left_out():
    found, data = fitted()

    def often_failing(model, own, held):
        first = int(own.ids[0])
        if first % 3 == 0:
            raise SimulationError("the objective does not exist", where=f"subject {first}", got=f"eta {first}")
        return fit(model, own, omega="diagonal", covariance="none", max_iterations=0 if first % 3 == 1 else 200)

    replicates = [*bootstrap(found, data, often_failing, range(12))]
    reasons = problems(replicates)
    assert set(reasons) == {"no fit: the objective does not exist", "not converged: not converged after 0 iterations"}
    kept = [one for one in replicates if not one.problem]
    assert sum(reasons.values()) + len(kept) == 12
    row = bootstrap_rows(found, replicates)[0]
    assert row.standard_error == pytest.approx(np.std([one.estimates[0] for one in kept], ddof=1))
    assert len(kept) < FEWEST
    assert row.lower is row.upper is None


def test_impossible_strata_are_refused():
    found, data = fitted()
    with pytest.raises(ConfigError, match="60 labels"):
        next(bootstrap(found, data, refit, [0], strata=["a"]))
