"""Compartments of doses, and which endpoint each observation is of: by DVID, or by CMT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.model.structural import StructuralModel

FloatArray = NDArray[np.float64]
Labels = NDArray[np.object_] | FloatArray  # of text, or of numbers
Where = Callable[[int | np.integer], str]  # names a row


def compartments(
    cmt: Labels, model: StructuralModel, chosen: Sequence[tuple[str, str]], observed: NDArray[np.bool_], where: Where
) -> FloatArray:
    """CMT as numbers: names of states become their numbers; an endpoint's name at an observation becomes missing.

    Arguments as for :func:`endpoint_numbers`, which looks up the endpoint. ConfigError: text that names neither.
    """
    if cmt.dtype != object:
        return np.asarray(cmt, dtype=np.float64)
    numbers = {name.lower(): float(number) for number, name in enumerate(model.states, 1)} | {"": np.nan}
    of_observations = {name.lower() for name in model.endpoints} | {_plain(value) for _, value in chosen}
    out = np.full(len(cmt), np.nan)
    for row, text in enumerate(cmt):
        value = numbers.get(text.lower(), _float(text))
        if value is None and observed[row] and text.lower() in of_observations:
            continue
        if value is None:
            expected = f"1 to {len(model.states)}, or {', '.join(model.states) or 'nothing'}"
            raise ConfigError("event table: impossible CMT", where=where(row), expected=expected, got=repr(text))
        out[row] = value
    return out


def endpoint_numbers(
    dvid: Labels | None, cmt: Labels | None, model: StructuralModel, chosen: Sequence[tuple[str, str]],
    observed: NDArray[np.bool_], where: Where,
) -> FloatArray:  # fmt: skip
    """DVID of every row, 1 for the model's first endpoint; in rows without an observation what the table says, or 1.

    By ``chosen``; else by DVID, a number or an endpoint's name; else by CMT, with the model's ``endpoint_compartments``
    or names. The observations of a model with one endpoint may be in any one compartment.

    Args:
        dvid, cmt: columns of the table, None without.
        model: the structural model.
        chosen: pairs of an endpoint and its value in DVID, or in CMT without DVID.
        observed: (rows,).
        where: names a row, for errors.

    Raises:
        ConfigError: an observation that no endpoint has, or several endpoints and nothing that tells them apart.
    """
    rows = np.flatnonzero(observed)
    out = np.asarray(dvid, np.float64).copy() if dvid is not None and dvid.dtype != object else np.ones(len(observed))
    if chosen:
        name, column = ("DVID", dvid) if dvid is not None else ("CMT", cmt)
        if column is None:
            raise ConfigError("endpoints are told by DVID or CMT, and the table has neither", got=_listed(chosen))
        out[rows] = _looked_up(name, column, _codes(chosen, model), rows, where)
    elif dvid is not None:
        if dvid.dtype == object:
            numbered = [(name, str(number)) for number, name in enumerate(model.endpoints, 1)]
            codes = _codes([*numbered, *((name, name) for name in model.endpoints)], model)
            out[rows] = _looked_up("DVID", dvid, codes, rows, where)
    elif cmt is not None and len(rows):
        out[rows] = _by_compartment(cmt, model, rows, where)
    elif len(model.endpoints) > 1 and len(rows):
        raise _unclear(model, where(rows[0]), "neither DVID nor CMT")
    return out


def _by_compartment(cmt: Labels, model: StructuralModel, rows: NDArray[np.intp], where: Where) -> FloatArray:
    named = [(name, name) for name in model.endpoints]
    if len(model.endpoints) > 1:
        if model.endpoint_compartments:
            for name, number in zip(model.endpoints, model.endpoint_compartments, strict=True):
                named += [(name, str(number)), *((name, state) for state in model.states[number - 1 : number])]
        values = _Distinct.of(cmt, rows)
        if not model.endpoint_compartments and any(value not in _codes(named, model) for value in values.texts):
            raise _unclear(model, where(rows[0]), f"no DVID, and CMT {values.texts[0] or 'missing'}")
        return _looked_up("CMT", cmt, _codes(named, model), rows, where)
    values = _Distinct.of(cmt, rows)
    places = [(text, first) for text, first in zip(values.texts, values.first, strict=True) if text not in ("", "0")]
    if len(places) > 1:
        text, first = places[1]
        what = f"observations in several compartments, and model {model.name!r} has one endpoint"
        do = f"say which: --endpoint {model.endpoints[0]}={places[0][0]}, and leave the others out (EVID 2)"
        raise ConfigError(what, where=where(rows[first]), expected=f"CMT {places[0][0]}, as above", got=text, do=do)
    known = {str(number) for number in range(1, len(model.states) + 1)} | {name.lower() for name in model.states}
    for text, first in places:
        if text not in known | {model.endpoints[0].lower()} and (model.states or _float(text) is None):
            raise _nowhere("CMT", where(rows[first]), [*sorted(known), *model.endpoints], text)
    return np.ones(len(rows))


class _Distinct(NamedTuple):
    """The distinct values of some rows, as they are compared, in the order in which they come first."""

    texts: list[str]
    first: list[int]  # position among the rows
    codes: NDArray[np.intp]  # (rows,) which text

    @classmethod
    def of(cls, column: Labels, rows: NDArray[np.intp]) -> _Distinct:
        values = column[rows]
        if values.dtype != object and (values == values[0]).all():  # the usual case, without sorting
            return cls([_plain(values[0])], [0], np.zeros(len(rows), dtype=np.intp))
        distinct, first, codes = np.unique(values, return_index=True, return_inverse=True)
        order = np.argsort(first)
        place = np.argsort(order)
        return cls([_plain(value) for value in distinct[order]], first[order].tolist(), place[codes])


def _codes(pairs: Sequence[tuple[str, str]], model: StructuralModel) -> dict[str, float]:
    """Number of the endpoint by value; ConfigError for an endpoint that does not exist, or a value of two."""
    codes: dict[str, float] = {}
    for name, value in pairs:
        number = model.endpoint_index(name) + 1.0
        if codes.setdefault(_plain(value), number) != number:
            raise ConfigError("two endpoints have the same value", got=_listed(pairs))
    return codes


def _looked_up(
    name: str, column: Labels, codes: dict[str, float], rows: NDArray[np.intp], where: Where
) -> FloatArray:  # fmt: skip
    if not len(rows):
        return np.empty(0)
    values = _Distinct.of(column, rows)
    for text, first in zip(values.texts, values.first, strict=True):
        if text not in codes:
            raise _nowhere(name, where(rows[first]), list(codes), text or "nothing")
    return np.array([codes[text] for text in values.texts])[values.codes]


def _nowhere(name: str, where: str, expected: Sequence[str], got: str) -> ConfigError:
    do = "say what it is, --endpoint NAME=VALUE, or leave the row out (EVID 2)"
    what = f"an observation whose {name} no endpoint has"
    return ConfigError(what, where=where, expected=f"one of {', '.join(expected)}", got=got, do=do)


def _unclear(model: StructuralModel, where: str, got: str) -> ConfigError:
    what = f"model {model.name!r} has several endpoints, and nothing says which one an observation is of"
    example = " ".join(f"--endpoint {name}={number}" for number, name in enumerate(model.endpoints, 1))
    numbered = ", ".join(f"{number} {name}" for number, name in enumerate(model.endpoints, 1))
    do = f"add DVID ({numbered}), or say which CMT is which, e.g. {example}"
    return ConfigError(what, where=where, got=got, do=do)


def _plain(value: object) -> str:
    """A value as it is compared: a whole number without a point, text in small letters, "" for missing."""
    number = _float(str(value))
    if number is None:
        return str(value).strip().lower()
    return "" if np.isnan(number) else f"{number:g}" if number % 1 else f"{number:.0f}"


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _listed(pairs: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name}={value}" for name, value in pairs)
