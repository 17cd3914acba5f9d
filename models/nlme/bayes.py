"""The population model in PyMC, with the structural model's prediction as an operation that has a gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

from core.errors import ConfigError
from models.nlme.codegen import generated_kernel
from models.nlme.data import PopulationData
from models.nlme.population import PopulationModel
from models.nlme.simulation import failure
from models.nlme.structural import StructuralModel

TIGHT = 1e-10  # per step: gradients agree with finite differences to 1e-6 and better


class Prediction(Op):
    """Individual parameters (n, p) → predictions (N,) of the symbolic structural model at the data's times and doses.

    ``raises`` False gives NaN in the place of the error: NUTS then rejects the proposal and counts a divergence.

    Raises:
        SimulationError: at evaluation, for a subject whose equations cannot be integrated.
    """

    __props__ = ("model", "with_gradient", "tolerance", "raises", "data")

    def __init__(
        self, model: StructuralModel, data: PopulationData, *, tolerance: float = TIGHT, raises: bool = True,
        with_gradient: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.data, self.tolerance, self.with_gradient = model, data, tolerance, with_gradient
        self.raises = raises

    def make_node(self, *inputs: Any) -> Apply:
        """Output types: (N,) predictions, or (N, p) their derivative with respect to the subject's own parameters."""
        output = pt.dmatrix() if self.with_gradient else pt.dvector()
        return Apply(self, [pt.as_tensor_variable(inputs[0], dtype="float64")], [output])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Run the compiled solver."""
        parameters, data = np.ascontiguousarray(inputs[0], dtype=np.float64), self.data
        out = np.empty(len(data.times))
        gradient = np.empty((len(out), parameters.shape[1] if self.with_gradient else 0))
        run = generated_kernel(self.model).run
        failed, reason = run(parameters, data.arrays, 0, False, self.tolerance, out, gradient)
        if failed >= 0 and not self.raises:
            out[:], gradient[:] = np.nan, np.nan
        elif failed >= 0:
            raise failure(self.model, parameters[failed], data.ids[failed], reason)
        outputs[0][0] = gradient if self.with_gradient else out

    def L_op(self, inputs: Any, outputs: Any, output_grads: Any) -> list[Any]:
        """Vector-Jacobian product: each observation's cotangent times its derivative, summed within subjects."""
        jacobian = Prediction(self.model, self.data, tolerance=self.tolerance, raises=self.raises, with_gradient=True)(
            inputs[0]
        )
        rows = output_grads[0][:, None] * jacobian
        return [pt.inc_subtensor(pt.zeros_like(inputs[0])[self.data.subject_of_row], rows)]


def population_model(
    model: PopulationModel, data: PopulationData, *, estimate: bool = False, tolerance: float = TIGHT
) -> pm.Model:
    """PyMC model of the outcomes in ``data``.

    Random effects are written non-centred: η = L z with z ~ N(0, I) and L the Cholesky factor of Ω. Variables:
    ``z`` and ``eta`` (subject, random_effect), ``individual`` (subject, parameter), ``prediction`` and ``outcome``
    (observation).

    Args:
        model: the population model; its values are fixed, or the centre of the priors.
        data: observations and designs.
        estimate: give typical values, Ω and residual error priors instead of fixing them: typical values (on the
            scale where random effects add) ~ Normal(own value, 1); standard deviations of random effects and of the
            residual error ~ HalfNormal(twice their own value); correlations ~ LKJ(2).
        tolerance: of the solver, per step.

    Raises:
        ConfigError: some endpoints have log-normal residual error and some have not.
    """
    logarithmic = model.logarithmic(data.endpoint)
    if logarithmic.any() and not logarithmic.all():
        raise ConfigError("the PyMC model cannot mix endpoints with and without log-normal residual error")
    k = model.n_random_effects
    coords = {
        "subject": data.ids,
        "random_effect": list(model.random_effect_names),
        "parameter": list(model.parameter_names),
        "observation": np.arange(len(data.times)),
    }
    with pm.Model(coords=coords) as population:
        if estimate:
            scale = 2.0 * np.sqrt(np.diag(np.asarray(model.omega)))
            if k > 1:
                cholesky, _, _ = pm.LKJCholeskyCov(
                    "omega", n=k, eta=2.0, sd_dist=pm.HalfNormal.dist(scale, shape=k), compute_corr=True
                )
            else:  # nothing to correlate: PyMC's prior draws need two
                cholesky = pt.diag(pm.HalfNormal("omega_stds", scale, shape=k))
                pm.Deterministic("omega_corr", pt.eye(k))
        else:
            cholesky = pt.as_tensor_variable(np.linalg.cholesky(np.asarray(model.omega)))
        z = pm.Normal("z", dims=("subject", "random_effect"))
        eta = pm.Deterministic("eta", z @ cholesky.T, dims=("subject", "random_effect"))
        columns, column = [], 0
        for parameter in model.parameters:
            shift: Any = pm.Normal(f"shift_{parameter.name}") if estimate else 0.0
            effect = pt.zeros(len(data)) + shift
            if parameter.random:
                effect = effect + eta[:, column]
                column += 1
            columns.append(parameter.individual(effect, pt.exp))
        individual = pm.Deterministic("individual", pt.stack(columns, axis=1), dims=("subject", "parameter"))
        prediction = pm.Deterministic(
            "prediction",
            Prediction(model.structural, data, tolerance=tolerance, raises=not estimate)(individual),
            dims="observation",
        )
        error: Any = pm.HalfNormal("error_scale", 2.0) if estimate else 1.0  # multiplies the model's own
        sigma = error * model.standard_deviation(prediction, data.endpoint)
        distribution, center = (pm.LogNormal, pt.log(prediction)) if logarithmic.all() else (pm.Normal, prediction)
        if data.censored.any():
            limit = np.where(data.censored, data.observed, -np.inf)
            below = distribution.dist(center, sigma)
            pm.Censored("outcome", below, lower=limit, upper=None, observed=data.observed, dims="observation")
        else:
            distribution("outcome", center, sigma, observed=data.observed, dims="observation")
    return population
