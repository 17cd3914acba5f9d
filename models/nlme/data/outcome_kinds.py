"""Observations of endpoints with a likelihood: counts, levels, events. Their values, and the cells beside them."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.model.structural import StructuralModel
from image_longitudinal.models.nlme.model.symbolic import likelihoods_of, risks_of

FloatArray = NDArray[np.float64]
Where = Callable[[int | np.integer], str]  # names a row


def likelihood_rows(
    given: Mapping[str, FloatArray], model: StructuralModel, observed: NDArray[np.bool_], where: Where
) -> NDArray[np.bool_]:  # fmt: skip
    """Which rows are observations of an endpoint with a likelihood, (rows,).

    Args:
        given: columns of the table, DVID as numbers of endpoints from 1 on; DV may be missing (a table to simulate).
        model: the structural model.
        observed: rows with an observation.
        where: names a row, for errors.

    Raises:
        ConfigError: a value that the likelihood excludes; CENS 1 other than at an event in an interval (DV 1); LIMIT
            without CENS 1, or below 0.
    """
    n = len(observed)
    dv, none = given["DV"], np.full(n, np.nan)
    marked, limit = np.nan_to_num(given.get("CENS", np.zeros(n))) == 1, given.get("LIMIT", none)
    events = {risk.endpoint for risk in risks_of(model)}
    found = np.zeros(n, dtype=bool)
    for index, own in enumerate(likelihoods_of(model)):
        if own is None:
            continue
        rows = observed & (given["DVID"] == index + 1)
        found |= rows
        event, name = index in events, model.endpoints[index]
        problems = (
            (rows & ~np.isnan(dv) & ~own.possible(dv), "DV", dv, own.values),
            (rows & marked & ~(event & (dv == 1)), "CENS", given.get("CENS", none),
             "0, or 1 at DV 1: an event between LIMIT and TIME" if event else "0"),
            (rows & ~np.isnan(limit) & ~(event & marked & (limit >= 0)), "LIMIT", limit,
             "a time ≥ 0 where CENS is 1" if event else "none"),
        )  # fmt: skip
        for bad, column, values, expected in problems:
            if bad.any():
                row = int(np.argmax(bad))
                what = f"event table: impossible {column} of endpoint {name!r}"
                raise ConfigError(what, where=where(row), expected=expected, got=values[row])
    return found
