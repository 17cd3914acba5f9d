"""The population model in PyMC, with the structural model's prediction as an operation that has a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.logprob.transforms import Transform
from pytensor.gradient import DisconnectedType, grad_undefined
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.estimation.importance_sampling import data_information
from image_longitudinal.models.nlme.estimation.objective import Objective
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters
from image_longitudinal.models.nlme.kernels.codegen import generated_kernel, solver_kernel
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.simulation.simulate import integration_error

FloatArray = NDArray[np.float64]
TIGHT = 1e-10  # per step: gradients agree with finite differences to 1e-6 and better


class Prediction(Op):
    """Individual parameters (n, p) → predictions (N,) of the structural model at the data's times and doses.

    A second output holds the derivatives (N, p) by the subject's own parameters: one run of the solver gives both. With
    ``fastest`` the model's hand-written solver is used if there is one; else the symbolic equations are integrated. If
    ``raises`` is False, predictions are NaN instead of an error: NUTS rejects the proposal and counts a divergence.

    Raises:
        SimulationError: at evaluation, for a subject whose equations cannot be integrated.
    """

    __props__ = ("model", "tolerance", "raises", "fastest", "data")

    def __init__(
        self, model: StructuralModel, data: PopulationData, *, tolerance: float = TIGHT, raises: bool = True,
        fastest: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.data, self.tolerance, self.raises, self.fastest = model, data, tolerance, raises, fastest

    def __str__(self) -> str:
        return f"Prediction({self.model.name})"  # not the data, which PyTensor's messages would print in full

    def make_node(self, *inputs: Any) -> Apply:
        """Output types: (N,) predictions and (N, p) derivatives."""
        return Apply(self, [pt.as_tensor_variable(inputs[0], dtype="float64")], [pt.dvector(), pt.dmatrix()])

    def perform(self, node: Apply, inputs: Any, outputs: Any) -> None:
        """Run the compiled solver."""
        parameters, data = np.ascontiguousarray(inputs[0], dtype=np.float64), self.data
        out, gradient = np.empty(len(data.times)), np.empty((len(data.times), parameters.shape[1]))
        kernel = (
            solver_kernel(self.model, plain=data.is_plain, stepwise=data.is_stepwise, boluses=data.is_boluses)
            if self.fastest
            else generated_kernel(self.model)
        )
        failed, reason = kernel.run(parameters, data.arrays, 0, False, self.tolerance, out, gradient)
        if failed >= 0 and not self.raises:
            out[:], gradient[:] = np.nan, np.nan
        elif failed >= 0:
            raise integration_error(self.model, parameters[failed], data.names[failed], reason)
        outputs[0][0], outputs[1][0] = out, gradient

    def L_op(self, inputs: Any, outputs: Any, output_grads: Any) -> list[Any]:
        """Vector-Jacobian product: each observation's cotangent times its derivative, summed within subjects."""
        if not isinstance(output_grads[1].type, DisconnectedType):
            return [grad_undefined(self, 0, inputs[0], "second derivatives are not computed")]
        rows = output_grads[0][:, None] * outputs[1]
        return [pt.inc_subtensor(pt.zeros_like(inputs[0])[self.data.subject_of_row], rows)]

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Both outputs depend on the parameters."""
        return [[True, True]]


@dataclass(frozen=True, eq=False)
class Information:
    """Gaussian approximation of each subject's likelihood, exp(-½ φᵀPφ + bᵀφ): P (n, k, k) and b (n, k)."""

    precision: FloatArray
    shift: FloatArray

    @classmethod
    def of_fit(cls, fit: Fit, data: PopulationData) -> Information:
        """From the model linearised at the modes of a fit, so that z = 0 there."""
        objective, values = Objective(fit.model, data), PopulationParameters.of(fit.model)
        precision = data_information(objective, values, fit.eta)
        phi = objective.typical_phi(values)[:, objective.random] + fit.eta
        score = np.linalg.solve(values.omega, fit.eta.T).T  # of the data, at a mode of the joint density
        return cls(precision, np.einsum("nkl,nl->nk", precision, phi) + score)

    def phi(self, mu: FloatArray, omega: FloatArray, z: FloatArray) -> FloatArray:
        """φ (n, k) from z (n, k), for typical values ``mu`` (k,) and Ω (k, k)."""
        own = np.linalg.inv(omega)
        covariance = np.linalg.inv(self.precision + own)
        factor = np.linalg.cholesky(self.precision + own)
        mean = np.einsum("nkl,nl->nk", covariance, self.shift + own @ mu)
        return np.asarray(mean + np.linalg.solve(np.swapaxes(factor, 1, 2), z[:, :, None])[:, :, 0])


class Whitened(Transform):
    """Coordinates in which a population posterior is easy to sample; PyMC's ``transform`` of φ ~ N(μ, Ω), (n, k).

    A hierarchical model has two usual parametrisations: centred ones mix badly with little data per subject,
    non-centred ones with much (Papaspiliopoulos, Roberts & Sköld 2007, Statistical Science 22:59). Here every subject
    has its own, in between: with its data approximated as Gaussian information P about its parameters φ (the k random
    ones, on the scale on which random effects add),

        φ = A⁻¹ (b + Ω⁻¹ μ) + R⁻ᵀ z,    A = P + Ω⁻¹ = R Rᵀ,    b = P m,

    z is standard normal whatever μ and Ω are, up to what is not Gaussian in the data. P = 0 is the non-centred
    parametrisation, P → ∞ the centred one. The posterior is the same for any P and b; they only affect mixing.

    Matrices are factored cell by cell, as vectors over subjects: k is small and n is large.
    """

    name = "whitened"
    ndim_supp = 1

    def __init__(self, information: Information) -> None:
        self.information = information

    def backward(self, value: Any, *inputs: Any) -> Any:
        """φ from z."""
        factor, center = self._factor(*inputs[-2:])
        k = len(factor)
        x: list[Any] = [center[a] + value[..., a] for a in range(k)]
        for a in reversed(range(k)):
            for b in range(a + 1, k):
                x[a] = x[a] - factor[b][a] * x[b]
            x[a] = x[a] / factor[a][a]
        return pt.stack(x, axis=-1)

    def forward(self, value: Any, *inputs: Any) -> Any:
        """z from φ."""
        factor, center = self._factor(*inputs[-2:])
        k = len(factor)
        columns = [sum(factor[b][a] * value[..., b] for b in range(a, k)) - center[a] for a in range(k)]
        return pt.stack(columns, axis=-1)

    def log_jac_det(self, value: Any, *inputs: Any) -> Any:
        """log |dφ / dz|, (n,)."""
        factor, _ = self._factor(*inputs[-2:])
        return -sum(pt.log(factor[a][a]) for a in range(len(factor)))

    def _factor(self, mu: Any, covariance: Any) -> tuple[list[list[Any]], list[Any]]:
        """R as a lower triangle of vectors (n,), and R⁻¹ (b + Ω⁻¹ μ) as vectors."""
        while covariance.ndim > 2:  # PyMC broadcasts the one covariance over subjects
            covariance = covariance[0]
        own = pt.linalg.inv(covariance)
        shift = mu @ own + self.information.shift
        k = self.information.shift.shape[1]
        factor: list[list[Any]] = []
        center: list[Any] = []
        for a in range(k):
            row: list[Any] = []
            for b in range(a + 1):
                cell = self.information.precision[:, a, b] + own[a, b]
                for c in range(b):
                    cell = cell - row[c] * (factor[b][c] if b < a else row[c])
                row.append(pt.sqrt(cell) if a == b else cell / factor[b][b])
            factor.append(row)
            rest = shift[:, a] - sum(row[c] * center[c] for c in range(a))
            center.append(rest / row[a])
        return factor, center


def bayesian_model(
    model: PopulationModel, data: PopulationData, *, estimate: bool = False, omega: str = "full",
    fixed: Sequence[str] = (), information: Information | None = None, tolerance: float = TIGHT,
) -> pm.Model:  # fmt: skip
    """PyMC model of the outcomes in ``data``.

    Variables: ``phi`` (subject, random_effect), the individual parameters on the scale on which random effects add,
    sampled in the coordinates of :class:`Whitened`; ``eta``, ``individual`` (subject, parameter),
    ``prediction`` and ``outcome`` (observation); ``typical`` (parameter), ``omega_matrix``. The outcomes are the
    shared variable ``observed``.

    Args:
        model: the population model; its values are fixed, or the centre of the priors.
        estimate: give typical values, Ω and residual error priors instead of fixing them: typical values (on the
            scale on which random effects add) ~ Normal(own value, 1); standard deviations of random effects and of the
            residual error ~ HalfNormal(twice their own value), the latter by one factor ``error_scale`` on all of
            it; correlations ~ LKJ(2). Occasions share their block of Ω.
        omega: ``full`` or ``diagonal``.
        fixed: parameters that keep their value, ``omega``, ``residual``.
        information: of each subject's data, for coordinates in which chains mix well; none (non-centred) if None. The
            distribution does not depend on it.
        tolerance: of the solver, per step.

    Raises:
        ConfigError: some endpoints have log-normal residual error and others do not.
    """
    logarithmic = model.logarithmic(data.endpoint)
    if logarithmic.any() and not logarithmic.all():
        raise ConfigError("the PyMC model cannot mix endpoints with and without log-normal residual error")
    k, values = model.n_random_effects, PopulationParameters.of(model)
    effects = list(model.random_effect_names)
    coords = {
        "subject": data.names,
        "random_effect": effects,
        "random_effect_other": effects,
        "parameter": list(model.parameter_names),
        "observation": np.arange(len(data.times)),
    }
    with pm.Model(coords=coords) as population:
        free_omega = estimate and "omega" not in fixed
        factor = _omega_factor(model, omega) if free_omega else pt.as_tensor_variable(np.linalg.cholesky(values.omega))
        shifts = [
            pm.Normal(f"shift_{p.name}") if estimate and not p.fixed and p.name not in fixed else pt.constant(0.0)
            for p in model.parameters
        ]
        random = [i for i, p in enumerate(model.parameters) if p.random]
        center = pt.stack([values.mu[i] + shifts[i] for i in random])
        transform = Whitened(information or Information(np.zeros((len(data), k, k)), np.zeros((len(data), k))))
        phi = pm.MvNormal("phi", center, chol=factor, dims=("subject", "random_effect"), transform=transform)
        pm.Deterministic("eta", phi - center, dims=("subject", "random_effect"))
        columns = [
            p.individual(
                phi[:, random.index(i)] - values.mu[i] if p.random else pt.zeros(len(data)) + shifts[i], pt.exp
            )
            for i, p in enumerate(model.parameters)
        ]
        individual = pm.Deterministic("individual", pt.stack(columns, axis=1), dims=("subject", "parameter"))
        solver = Prediction(model.structural, data, tolerance=tolerance, raises=not estimate, fastest=estimate)
        prediction = pm.Deterministic("prediction", solver(individual)[0], dims="observation")
        if estimate:
            typical = [p.individual(shift, pt.exp) for p, shift in zip(model.parameters, shifts, strict=True)]
            pm.Deterministic("typical", pt.stack(typical), dims="parameter")
            pm.Deterministic("omega_matrix", factor @ factor.T, dims=("random_effect", "random_effect_other"))
        free = estimate and "residual" not in fixed
        error: Any = pm.HalfNormal("error_scale", 2.0) if free else 1.0  # multiplies the model's own
        sigma = error * model.standard_deviation(prediction, data.endpoint)
        observed = pm.Data("observed", data.observed, dims="observation")
        distribution, middle = (pm.LogNormal, pt.log(prediction)) if logarithmic.all() else (pm.Normal, prediction)
        if data.censored.any():
            limit = np.where(data.censored, data.observed, -np.inf)
            below = distribution.dist(middle, sigma)
            pm.Censored("outcome", below, lower=limit, upper=None, observed=observed, dims="observation")
        else:
            distribution("outcome", middle, sigma, observed=observed, dims="observation")
    return population


def omega_blocks(model: PopulationModel) -> dict[str, list[list[int]]]:
    """Blocks of Ω by the name of their variable, each with the groups of positions that share it."""
    grouped = {position for group in model.shared_omega for position in group}
    free = [position for position in range(model.n_random_effects) if position not in grouped]
    blocks = {"omega": [free]} if free else {}
    return blocks | ({"omega_occasions": [list(group) for group in model.shared_omega]} if grouped else {})


def omega_start(model: PopulationModel, structure: str, omega: Any) -> dict[str, Any]:
    """Values of the variables of Ω at a matrix (k, k)."""
    start: dict[str, Any] = {}
    for name, groups in omega_blocks(model).items():
        factor = np.linalg.cholesky(np.asarray(omega)[np.ix_(groups[0], groups[0])])
        correlated = structure == "full" and len(factor) > 1
        start[name] = factor[np.tril_indices(len(factor))] if correlated else np.sqrt((factor**2).sum(axis=1))
    return start


def _omega_factor(model: PopulationModel, structure: str) -> Any:
    """The Cholesky factor of Ω with its prior, (k, k)."""
    k, own = model.n_random_effects, np.asarray(model.omega)
    cells: list[list[Any]] = [[pt.constant(0.0)] * k for _ in range(k)]
    for name, groups in omega_blocks(model).items():
        n, scale = len(groups[0]), 2.0 * np.sqrt(np.diag(own)[groups[0]])
        if structure == "full" and n > 1:
            deviation = pm.HalfNormal.dist(scale, shape=n)
            packed = pm.LKJCholeskyCov(name, n=n, eta=2.0, sd_dist=deviation, compute_corr=False)
        else:
            packed = pm.HalfNormal(name, scale, shape=n)
        position = 0
        for a in range(n):
            for b in range(a + 1):
                if a == b or (structure == "full" and n > 1):
                    for group in groups:
                        cells[group[a]][group[b]] = packed[position]
                    position += 1
    return pt.stack([pt.stack(row) for row in cells])
