import numpy as np
import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.events import event_table
from image_longitudinal.models.nlme.library import get_model

ONE = get_model("one-compartment").structural
GOOD = {"ID": [1, 1, 2], "TIME": [0.0, 1.0, 0.0], "EVID": [1, 0, 0], "AMT": [100.0, 0.0, 0.0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"TIME": [1.0, 0.5, 0.0]}, "unsorted times.*row 2"), ({"TIME": [0.0, np.nan, 0.0]}, "TIME.*row 2"),
        ({"EVID": [1, 7, 0]}, "EVID.*row 2"), ({"TIME": None}, "lacks a column.*TIME"),
        ({"AMT": [0.0, 0.0, 0.0]}, "AMT.*row 1"), ({"RATE": [-3.0, 0.0, 0.0]}, "RATE.*row 1"),
        ({"CMT": [3, 1, 1]}, "CMT.*row 1.*1 to 2"), ({"ADDL": [2, 0, 0]}, "II.*row 1"),
        ({"SS": [1, 0, 0]}, "II.*row 1"), ({"ID": [1, 2, 1]}, "not together.*row 3"),
        ({"ID": [1, 1, 1.5]}, "impossible ID.*row 3"), ({"DV": [1.0]}, "DV"),
        ({"HEIGHT": [180.0, 180.0, 180.0]}, "does not know.*HEIGHT"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_by_column_and_row(changes, message):
    with pytest.raises(ConfigError, match=message):
        event_table({name: values for name, values in (GOOD | changes).items() if values is not None}, ONE)
