"""The free population parameters as an unconstrained vector."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.progress import Counter
from image_longitudinal.models.nlme.estimation.bounds import Bounds
from image_longitudinal.models.nlme.estimation.objective import Gradient
from image_longitudinal.models.nlme.estimation.population_parameters import PopulationParameters, inverse_link
from image_longitudinal.models.nlme.model.population import PopulationModel, check_omega

FloatArray = NDArray[np.float64]


class Coordinates:
    """The free parameters of a fit as a vector ψ: μ, the Cholesky factor of Ω (log diagonal), log residual errors.

    Args:
        model: whose values are the start, with bounds and fixed parameters.
        omega: structure of Ω: ``full``, ``diagonal``, ``blocks`` (of random effects that covary in the start values),
            or the blocks themselves as names of parameters, such as ``cl,v ka``; others are alone.
        fixed: what is held at its start: parameters, ``omega``, ``residual``, one random effect's variance
            (``eta_ka``, in a block of its own) or one residual value (``sigma2_additive``).

    Raises:
        ConfigError: unknown names or structure, or start values that do not have the structure.
    """

    def __init__(self, model: PopulationModel, omega: str, fixed: Sequence[str]) -> None:
        effects, errors = model.random_effect_names, _error_names(model)
        known = (*model.parameter_names, "omega", "residual", *effects, *errors)
        unknown = set(fixed) - set(known)
        if unknown:
            expected = f"names among {', '.join(known)}"
            raise ConfigError("unknown value to hold fixed", expected=expected, got=sorted(unknown))
        k = model.n_random_effects
        self.model, self.start = model, PopulationParameters.of(model)
        check_omega(self.start.omega, k, model.name)
        block = blocks_of(model, omega)
        outside = (self.start.omega != 0) & (block[:, None] != block)
        if outside.any():
            what = f"a {omega} omega, but the model's start values have covariances"
            raise ConfigError(what, expected="covariances within blocks alone", got=model.omega)
        self.mu = [i for i, own in enumerate(model.parameters) if own.name not in fixed and not own.fixed]
        self.bounds = Bounds([model.parameters[i] for i in self.mu])
        held = {i for i, name in enumerate(effects) if name in fixed}
        for i in held:
            if (block == block[i]).sum() > 1 or any(i in group for group in model.shared_omega):
                what = f"the variance of {effects[i]} cannot be held alone: it has covariances"
                raise ConfigError(what, do="hold omega, or give it a block of its own (diagonal, or blocks)")
        self.copies = [] if "omega" in fixed else _free_cells(k, model.shared_omega, block, held)
        self.cells = [copies[0] for copies in self.copies]
        used = [(own.uses_additive, own.uses_proportional, own.kind == "power") for own in model.residuals]
        free = np.ravel(used) & (self.start.error > 0) & np.array([name not in fixed for name in errors])
        self.errors: list[int] = [] if "residual" in fixed else np.flatnonzero(free).tolist()

    def pack(self, values: PopulationParameters) -> FloatArray:
        """ψ of population parameters."""
        factor = np.linalg.cholesky(values.omega)
        chol = [np.log(factor[i, i]) if i == j else factor[i, j] for i, j in self.cells]
        return np.concatenate([self.bounds.free(values.mu[self.mu]), chol, np.log(values.error[self.errors])])

    def unpack(self, psi: FloatArray) -> PopulationParameters:
        """The population parameters at ψ."""
        mu, error = self.start.mu.copy(), self.start.error.copy()
        mu[self.mu] = self.bounds.bounded(psi[: len(self.mu)])
        omega = self.start.omega
        if self.cells:
            factor = np.linalg.cholesky(omega)  # (of what is held: the free cells are replaced)
            for copies, value in zip(self.copies, psi[len(self.mu) :], strict=False):
                for i, j in copies:
                    factor[i, j] = np.exp(value) if i == j else value
            omega = factor @ factor.T
        error[self.errors] = np.exp(psi[len(self.mu) + len(self.cells) :])
        return PopulationParameters(mu, omega, error)

    def structured(self, omega: FloatArray) -> FloatArray:
        """The nearest matrix with Ω's structure: the start's where it is not free, equal blocks as their mean."""
        found, mask = omega.copy(), np.zeros(omega.shape, dtype=bool)
        for copies in self.copies:
            rows, columns = tuple(np.transpose(copies))
            mask[rows, columns] = True
            found[rows, columns] = found[columns, rows] = found[rows, columns].mean()
        return np.where(mask | mask.T, found, self.start.omega)

    def natural(self, psi: FloatArray) -> FloatArray:
        """Estimates of a report: typical values, Ω's lower triangle, residual variances (and powers)."""
        values = self.unpack(psi)
        kinds = [own.distribution for own in self.model.parameters]
        omega = [values.omega[i, j] for i, j in self.cells]
        error = [values.error[i] ** (1 if i % 3 == 2 else 2) for i in self.errors]
        return np.array([*(float(inverse_link(kinds[i], values.mu[i])) for i in self.mu), *omega, *error])

    def log_volume(self, psi: FloatArray) -> float:
        """Logarithm of the determinant of :meth:`natural`'s derivatives at ψ, up to a constant."""
        values = self.unpack(psi)
        mu, total = values.mu[self.mu], 0.0
        for slope, x, place in zip(self.bounds.slope(mu), mu, self.mu, strict=True):
            kind = self.model.parameters[place].distribution
            total += np.log(slope)
            if kind == "log-normal":
                total += x
            elif kind == "logit-normal":  # log of p (1 - p)
                total -= np.logaddexp(0.0, x) + np.logaddexp(0.0, -x)
        columns = [j for _, j in self.cells]
        for (i, j), value in zip(self.cells, psi[len(self.mu) :], strict=False):
            if i == j:  # every free cell of its column is multiplied by the factor's diagonal, which is a logarithm
                total += (columns.count(j) + 1) * value
        for place, value in zip(self.errors, psi[len(self.mu) + len(self.cells) :], strict=True):
            total += (1.0 if place % 3 == 2 else 2.0) * value
        return float(total)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of :meth:`natural`."""
        effects = self.model.random_effect_names
        omega = [f"omega({effects[i]},{effects[j]})" for i, j in self.cells]
        errors = _error_names(self.model)
        return (*(self.model.parameter_names[i] for i in self.mu), *omega, *(errors[i] for i in self.errors))


def by_coordinates(c: Coordinates, values: PopulationParameters, gradient: Gradient) -> FloatArray:
    """Each subject's derivatives with respect to ψ, (n, m), from those by μ, Ω⁻¹ and log residual values."""
    columns = [gradient.by_mu[:, c.mu] * c.bounds.slope(values.mu[c.mu])]
    if c.cells:
        precision, factor = np.linalg.inv(values.omega), np.linalg.cholesky(values.omega)
        by_factor = -2.0 * precision @ gradient.by_precision @ (precision @ factor)
        scale = [factor[i, i] if i == j else 1.0 for i, j in c.cells]
        columns.append(np.stack([sum(by_factor[:, i, j] for i, j in copies) for copies in c.copies], axis=1) * scale)
    columns.append(gradient.by_error[:, c.errors])
    return np.concatenate(columns, axis=1)


def central_differences(
    function: Callable[[FloatArray], FloatArray], x: FloatArray, step: float, counter: Counter | None = None
) -> list[FloatArray]:
    """f(x + h) - f(x - h) for a step h along each coordinate of x (m,); ``counter`` counts the coordinates."""
    columns = []
    for done, move in enumerate(step * np.eye(len(x)), 1):
        columns.append(function(x + move) - function(x - move))
        if counter:
            counter.update(done)
    return columns


def blocks_of(model: PopulationModel, omega: str) -> NDArray[np.int64]:
    """The block (a number) of each random effect, (k,), for a structure of Ω as in :class:`Coordinates`."""
    k, names = model.n_random_effects, [own.name for own in model.parameters if own.random]
    own = np.arange(k)
    if omega == "full":
        return np.zeros(k, dtype=np.int64)
    if omega == "diagonal":
        return own
    if omega == "blocks":
        linked = np.asarray(model.omega) != 0
        for _ in range(k):  # the smallest number that is reached
            own = np.array([own[linked[i]].min() for i in range(k)], dtype=np.int64)
        return own
    for group in omega.split():
        members = group.split(",")
        if unknown := [name for name in members if name not in names]:
            expected = f"full, diagonal, blocks, or blocks of {', '.join(names)} such as {','.join(names[:2])}"
            raise ConfigError("unknown structure of omega", expected=expected, got=", ".join(unknown))
        own[[names.index(name) for name in members]] = names.index(members[0])
    return own


def _error_names(model: PopulationModel) -> list[str]:
    """Names of all residual values, three an endpoint."""
    endpoints = model.structural.endpoints
    return [
        name if len(endpoints) == 1 else f"{name}({endpoint})"
        for endpoint in endpoints
        for name in ("sigma2_additive", "sigma2_proportional", "power")
    ]


def _free_cells(
    k: int, shared: Sequence[Sequence[int]], block: NDArray[np.int64], held: set[int]
) -> list[list[tuple[int, int]]]:
    """Free cells of Ω's lower triangle (k, k), each with the cells that must equal it, itself first."""
    grouped = {position for group in shared for position in group} | held
    free = [position for position in range(k) if position not in grouped]
    cells = [[(i, j)] for i in free for j in free if j <= i and block[i] == block[j]]
    size = len(shared[0]) if shared else 0
    return cells + [
        [(group[a], group[b]) for group in shared]
        for a in range(size)
        for b in range(a + 1)
        if block[shared[0][a]] == block[shared[0][b]]
    ]
