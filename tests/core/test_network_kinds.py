"""Which solvers fit which models; which networks fit each other is tested with the presets."""

import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.network_kinds import check_solver


def test_a_solver_that_needs_data_of_mean_0_fits_flattened_retinas_alone() -> None:
    check_solver("probe", "centred", 2, "flattened")
    check_solver("probe", "whitened", 1, "residual")
    with pytest.raises(ConfigError, match=r"probe\.scheduler centred does not fit .*flattened; got residual.*whitened"):
        check_solver("probe", "centred", 4, "residual")
    with pytest.raises(ConfigError, match=r"probe\.steps is impossible; expected at least 2 for centred; got 1"):
        check_solver("probe", "centred", 1, "flattened")
