"""Solvers that are compiled ahead of time are those that later runs load."""

import os
import subprocess
import sys

import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.compile_solvers import USUAL, compile_solvers
from image_longitudinal.models.nlme.library import get_model

# Fits and simulates by every method that needs a kernel, and counts what it had to compile itself.
LATER = """
import numpy as np
from image_longitudinal.models.nlme.compile_solvers import FIRST, _simulated
from image_longitudinal.models.nlme.estimation import densities, objective
from image_longitudinal.models.nlme.estimation.fit import fit
from image_longitudinal.models.nlme.estimation.saem import saem_fit
from image_longitudinal.models.nlme.kernels import curvature, individual, likelihood, modes, one_compartment
from image_longitudinal.models.nlme.library import get_model
model = get_model(FIRST)
data = _simulated(model)
fit(model, data, omega="diagonal", max_iterations=1)
saem_fit(model, data, omega="diagonal", burn_in=1, smoothing=1, draws=50)
kernels = [modes.modes, individual.objectives, individual.predictions, one_compartment.solve_one_compartment,
           curvature.curvatures,
           likelihood.subject_densities, curvature.data_derivatives]
print(sum(sum(kernel.stats.cache_misses.values()) for kernel in kernels),
      sum(sum(kernel.stats.cache_hits.values()) > 0 for kernel in kernels))
"""


def test_a_later_process_compiles_nothing() -> None:
    compile_solvers(USUAL[:1])  # (the others take long where nothing is compiled)
    done = subprocess.run(
        [sys.executable, "-c", LATER], env=dict(os.environ), capture_output=True, text=True, check=True
    )
    misses, used = map(int, done.stdout.split())
    assert misses == 0
    assert used >= 5  # (kernels that a method of few subjects does not need stay unused)


def test_the_usual_models_are_in_the_library() -> None:
    assert {get_model(name).name for name in USUAL} == set(USUAL)


def test_a_name_that_no_model_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown longitudinal model"):
        compile_solvers(["one-compartmnt"])
