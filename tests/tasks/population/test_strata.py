"""Groups of subjects for visual predictive checks."""

import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.tasks.population.inputs import named_model, observations_of, strata_of
from image_longitudinal.tasks.population.options import FitOptions


@pytest.fixture
def table(tmp_path):
    rows = ["ID,TIME,AMT,EVID,CMT,DV,arm,weight"]
    for subject in range(1, 9):
        arm = "low" if subject % 2 else "high"
        rows.append(f"s{subject},0,100,1,1,.,{arm},{50 + subject}")
        rows.append(f"s{subject},1,0,0,2,3.5,{arm},{90 - subject}")
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def strata(table, *columns, **options):
    options = FitOptions(table=table, model="one-compartment", stratify=columns, **options)
    return strata_of(options, observations_of(options, named_model("one-compartment", None, {})))


def test_a_column_groups_subjects_by_its_first_value_and_many_numbers_at_their_median(table):
    assert strata(table) == []
    assert strata(table, "arm", subjects=3) == ["arm=low", "arm=high", "arm=low"]
    both = strata(table, "ARM", "weight")
    assert both[:2] == ["arm=low, weight ≤ 54.5", "arm=high, weight ≤ 54.5"]
    assert both[-1] == "arm=high, weight > 54.5"


def test_a_column_that_the_table_does_not_have_is_refused(table):
    with pytest.raises(ConfigError, match=r"no column of that name.*arm, weight.*got 'sex'"):
        strata(table, "sex")
