"""Wrong model files: one line that names the file's line and the cure."""

import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.library import get_model, load_models
from image_longitudinal.models.nlme.model.symbolic import trace

FILE = """\
import math
import numpy as np
from image_longitudinal.models.nlme.library import register
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel


def rhs(t, x, p):
    rate = p.k * x.a
    return {"a": -rate}


register(PopulationModel(
    "wrong", StructuralModel("wrong", ("a",), ("k",), rhs, lambda t, x, p: x.a), (Parameter("k", 1.0),), ((0.1,),),
    ResidualError("additive", additive=1.0), Design((0.0, 1.0), ()),
))
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("p.k * x.a\n", "p.k * math.exp(x.a)\n", 11, "exp, log, sqrt, where.*symbolic"),
        ("p.k * x.a\n", "p.k * np.where(t > 3, x.a, 0.0)\n", 11, "use s.where"),
        ("p.k * x.a\n", "p.k * max(x.a, 0.0)\n", 11, "s.where.*s.maximum"),
        ("    rate = p", "    if t > 3:\n        t = 3\n    rate = p", 11, "s.where"),
        ("p.k * x.a\n", "p.k * x.a if x.a > 0 else 0.0\n", 11, "s.where"),
        ("p.k * x.a\n", "p.k * sm.exp(x.a)\n", 11, "'sm' is not defined.*import it"),
        ("p.k * x.a\n", "p.kel * x.a\n", 11, r".*\['a'\].*\['k'\].*no attribute 'kel'.*declare it"),
        ("p.k * x.a\n", "p.k * s.sin(x.a)\n", 11, "there are exp, log"),
        ("p.k * x.a\n", "p.k * x['a']\n", 11, r"write x\.central"),
        ("def rhs(t, x, p)", "def rhs(x, p)", 10, r"take \(t, x, p\)"),
        ("p.k * x.a\n", "p.k * x.a)\n", 11, "unmatched"),
        ("import math", "import maths", 1, "No module named 'maths'.*correct the import"),
        ('Parameter("k", 1.0)', 'Parameter("k", -1.0)', 16, "impossible typical value.*above 0"),
        ("Design((0.0, 1.0), ())", "Design((0.0, 1.0), ()) + 1", 17, "unsupported operand"),
        ("import math", "import math\n1 / 0", 2, "division by zero"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_explained_in_one_line(tmp_path, old, new, line, said):
    assert FILE.count(old) == 1
    path = tmp_path / "wrong.py"
    path.write_text(FILE.replace(old, new).replace('"wrong"', f'"{tmp_path.name}"'))  # each a model of its own

    def use():
        load_models(path)
        trace(get_model(f"{path}:{tmp_path.name}").structural)

    with pytest.raises(ConfigError, match=rf"(?i)wrong\.py, line {line}\b.*{said}") as error:
        use()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('{"a": -rate}', '{"b": -rate}', r"equations that do not match.*\['a'\]"),
        ('{"a": -rate}', '{"a": [-rate, rate]}', "not a single value"),
        ('{"a": -rate}', '{"a": "-rate"}', "expression that is none"),
        ('{"a": -rate}', "None", r"wrong\.py, line 10.*return expressions by name"),
    ],
)  # fmt: skip
def test_equations_that_are_none_are_refused(tmp_path, old, new, said):
    path = tmp_path / "wrong.py"
    path.write_text(FILE.replace(old, new).replace('"wrong"', f'"{tmp_path.name}"'))
    load_models(path)
    with pytest.raises(ConfigError, match=f"(?i){said}"):
        trace(get_model(f"{path}:{tmp_path.name}").structural)
