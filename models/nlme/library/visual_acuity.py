"""Visual acuity under an anti-VEGF drug injected into the eye (Mulyukov et al. 2018, doi 10.1002/psp4.12322).

The drug leaves the vitreous (4 mL) at a first-order rate; acuity, in letters of the ETDRS chart, is lost at the rate
kout towards an equilibrium g_ss without treatment, and the drug stimulates the gain:

    C = drug / V,   E(t) = Emax_ss + ΔEmax exp(-k_E t),
    acuity' = kout · (g_ss (1 + E(t) C / (EC50 + C)) - acuity).

Values are those of the paper's table 2 and supplementary table S1 (correlations), time in days. Choices made here:

* t is the time of the table, so the first injection must be at 0.
* The CVs of log-normal parameters become variances by ω² = log(1 + CV²): kout 730 %, Emax_ss 110 %, ΔEmax 1100 %.
* The paper starts each eye at its observed baseline plus Normal(0, 4.1 letters). Here the baseline is a parameter,
  Normal(54, 13² + 4.1²) as in the trials' 1,524 eyes, and only the second part correlates with the other parameters.
* The effect falls with age, (age / 77)^-1.4: model ``visual-acuity-age``. In ``visual-acuity`` everyone is 77.
* σ is that of treated eyes, 5 letters (untreated 7). Acuity is not cut at 0 and 100 letters.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from image_longitudinal.models.nlme.model.dosing import Dose
from image_longitudinal.models.nlme.model.effects import with_covariate
from image_longitudinal.models.nlme.model.population import Design, Parameter, PopulationModel
from image_longitudinal.models.nlme.model.residual_error import ResidualError
from image_longitudinal.models.nlme.model.structural import Expression, StructuralModel
from image_longitudinal.models.nlme.model.symbolic import exp

VOLUME = 0.004  # L, of the vitreous
MONTH = 28.0  # days


def _rhs(t: Expression, x: SimpleNamespace, p: SimpleNamespace) -> Mapping[str, Expression]:
    concentration = x.drug / VOLUME
    effect = (p.emax + p.extra * exp(-p.kfade * t)) * concentration / (p.ec50 + concentration)
    return {"drug": -p.kel * x.drug, "acuity": p.kout * (p.equilibrium * (1.0 + effect) - x.acuity)}


def _omega() -> tuple[tuple[float, ...], ...]:
    """Covariance of the random effects of base, kout, emax and extra."""
    letters = np.hypot(13.0, 4.1)
    sd = np.array([letters, *np.sqrt(np.log1p(np.array([7.3, 1.1, 11.0]) ** 2))])
    share = 4.1 / letters  # only the deviation from the observed baseline correlates with the rest
    correlation = np.array([
        [1.0, -0.14 * share, 0.27 * share, 0.48 * share],
        [-0.14 * share, 1.0, -0.62, -0.89],
        [0.27 * share, -0.62, 1.0, 0.46],
        [0.48 * share, -0.89, 0.46, 1.0],
    ])  # fmt: skip
    return tuple(tuple(float(value) for value in row) for row in correlation * np.outer(sd, sd))


MODEL = PopulationModel(
    name="visual-acuity",
    structural=StructuralModel(
        name="visual-acuity",
        states=("drug", "acuity"),
        parameters=("base", "kout", "emax", "extra", "kfade", "ec50", "kel", "equilibrium"),
        rhs=_rhs,
        output=lambda t, x, p: x.acuity,
        initial=lambda p: {"acuity": p.base},
    ),
    parameters=(
        Parameter("base", 54.0, "normal"),  # letters
        Parameter("kout", 0.19 / 365.25),
        Parameter("emax", 6.1),
        Parameter("extra", 41.0),
        Parameter("kfade", 0.046, random=False, fixed=True),
        Parameter("ec50", 2.1, random=False),  # mg/L
        Parameter("kel", 0.077, random=False, fixed=True),
        Parameter("equilibrium", 11.0, random=False),  # letters
    ),
    omega=_omega(),
    residual=ResidualError("additive", additive=5.0),
    design=Design(
        times=tuple(MONTH * month for month in range(25)),
        doses=tuple(Dose(MONTH * month, 0.5, "drug") for month in range(24)),  # 0.5 mg monthly, as in MARINA
    ),
    units={"time": "day", "amount": "mg", "outcome": "letters"},
    source="doi 10.1002/psp4.12322",
)

WITH_AGE = with_covariate(MODEL, "emax", "age", reference=77.0, coefficient=-1.4)
MODELS = (MODEL, replace(WITH_AGE, name="visual-acuity-age"))
