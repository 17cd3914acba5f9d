"""What compiled kernels read of a population's data, without numba: the data modules build these arrays."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DOSE, STEADY_STATE, STEADY_STATE_ADDED, RESET, COVARIATES = range(5)  # kinds of event; the second and third: SS 1 and 2


class EventArrays(NamedTuple):
    """Observations (N,) and events (E,) of n subjects; fields as in ``data.population_data.PopulationData``.

    All arrays are contiguous and writable, so that there is one compiled signature.
    """

    row_start: NDArray[np.int64]
    times: NDArray[np.float64]
    observed: NDArray[np.float64]
    before: NDArray[np.int64]
    endpoint: NDArray[np.int64]
    censored: NDArray[np.bool_]
    event_start: NDArray[np.int64]
    when: NDArray[np.float64]
    kind: NDArray[np.int64]
    compartment: NDArray[np.int64]
    amount: NDArray[np.float64]
    rate: NDArray[np.float64]
    interval: NDArray[np.float64]
    covariates: NDArray[np.float64]
