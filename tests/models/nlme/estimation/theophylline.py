"""The theophylline data (Boeckmann, Sheiner & Beal, NONMEM user's guide part V; R's Theoph) and models of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.model import symbolic as s
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import StructuralModel

COMBINED = PopulationModel(  # 320 mg for everybody, full Ω: the example of NONMEM's users
    name="theophylline",
    structural=StructuralModel(
        "theophylline",
        (),
        ("ka", "v", "k"),
        lambda t, x, p: {},
        lambda t, x, p: 320 / p.v * p.ka / (p.ka - p.k) * (s.exp(-p.k * t) - s.exp(-p.ka * t)),
    ),
    parameters=(Parameter("ka", 2.0), Parameter("v", 50.0), Parameter("k", 0.1)),
    omega=((0.2, 0.1, 0.1), (0.1, 0.2, 0.1), (0.1, 0.1, 0.2)),
    residual=ResidualError("combined2", additive=0.1**0.5, proportional=0.1**0.5),
    design=Design((0.0, 1.0), ()),
)
DIAGONAL = replace(COMBINED, omega=((0.2, 0.0, 0.0), (0.0, 0.2, 0.0), (0.0, 0.0, 0.2)))
ADDITIVE = PopulationModel(  # dose in mg/kg, diagonal Ω: the example of R's nlme (SSfol), whose ω of ke vanishes
    name="theophylline-additive",
    structural=StructuralModel(
        "theophylline-additive",
        (),
        ("ka", "ke", "cl"),
        lambda t, x, p: {},
        lambda t, x, p: p.dose * p.ke * p.ka / (p.cl * (p.ka - p.ke)) * (s.exp(-p.ke * t) - s.exp(-p.ka * t)),
        covariates=("dose",),
    ),
    parameters=(Parameter("ka", 1.6), Parameter("ke", 0.08), Parameter("cl", 0.04)),
    omega=((0.3, 0.0, 0.0), (0.0, 0.05, 0.0), (0.0, 0.0, 0.05)),
    residual=ResidualError("additive", additive=1.0),
    design=Design((0.0, 1.0), ()),
)


def theophylline(folder: Path, model: PopulationModel) -> PopulationData:
    """The twelve subjects for a model, from the folder of reference data."""
    table = np.genfromtxt(folder / "theoph_132obs.csv", delimiter=",", skip_header=1)
    parts = []
    for number in np.unique(table[:, 0]):
        rows = table[table[:, 0] == number]
        given = {"dose": rows[0, 5]} if model.structural.covariates else None
        parts.append(
            PopulationData.of_design(
                model.structural, rows[:, 2][None], rows[:, 1], [], ids=[int(number)], covariates=given
            )
        )
    return PopulationData.concatenate(parts)
