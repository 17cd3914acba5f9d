"""The rules of columns, and that docs/reference/nmtran.md has them."""

import re

import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.columns import RULE, WITHOUT_EFFECT, column_names
from image_longitudinal.models.nlme.library import get_model
from tests.paths import ROOT


def test_the_documentation_names_every_column_and_what_others_call_it():
    rows = re.findall(r"^\| ([A-Z`][^|]*) \| ([^|]*)\|", (ROOT / "docs/reference/nmtran.md").read_text(), re.MULTILINE)
    documented = {name: others.strip() for names, others in rows for name in names.split(", ")}
    for name, rule in RULE.items():
        assert documented[name] == ", ".join(rule.synonyms)
    assert WITHOUT_EFFECT[:4] == ("L1", "L2", "PCMT", "CALL")
    assert {"L1", "L2", "PCMT", "CALL"} <= set(documented)


def test_names_of_other_programs_count_where_nothing_else_has_them():
    assert column_names(["Id", "Time", "Y", "ytype"]) == {"id": "Id", "time": "Time", "dv": "Y", "dvid": "ytype"}
    assert column_names(["ID", "DV", "Y"]) == {"id": "ID", "dv": "DV", "y": "Y"}
    model = get_model("emax").structural
    assert column_names(["Concentration"], model) == {"concentration": "Concentration"}
    with pytest.raises(ConfigError, match=r"both mean CENS.*BLQ, Bloq"):
        column_names(["BLQ", "Bloq"])
