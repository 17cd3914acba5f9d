"""The gates of a model, from what was measured of it, and how a version's folder holds them (``gates.json``).

They stand beside model.json, not in it: what is wanted of a model, and what a person has accepted, do not change which
model it is.
"""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from image_longitudinal.core.digest import sealed_json, unsealed_json
from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.gates import Bar, Gate, GatesConfig, gate
from image_longitudinal.core.json_input import parse_json
from image_longitudinal.models.registry.metadata import Measurement, effect_dimension

GATES = "gates.json"
TOO_FEW = "too few scans of other patients"
NO_COPIES = "what scans of new patients reach"
NO_JUDGE = "no judge's weights are installed: pip install 'image-longitudinal[judge]'"


def model_gates(measured: Measurement, bars: GatesConfig) -> tuple[Gate, ...]:
    """What a finished model has to reach: z read back from its images, a judge from outside, and no copies."""
    dimension = effect_dimension(measured)
    readable = measured.recoverability[dimension]
    name = f"z[{dimension}], third-best, read back from generated images by the {measured.read_by}, R²"
    gates = [gate("model", "recoverability", name, readable, bars)]
    if found := measured.copies:
        name = "copies of single training scans, share"
        bar = Bar(value=round(found.held_out_share, 4), better="lower", reason=NO_COPIES)
        gates.append(gate("model", "copies", name, found.share, bars, bar=bar))
    if (judged := measured.judgement) is None:
        missing = NO_JUDGE if measured.fidelity else TOO_FEW
        for kind, what in (("fidelity", "distance to scans, floors"), ("copies", "near copies, share")):
            gates.append(gate("model", kind, what, None, bars, missing=missing))  # type: ignore[arg-type]
        return tuple(gates)
    sets = judged.measures
    distance = f"distance to scans by the judge {judged.judge.name}, floors"
    gates.append(gate("model", "fidelity", distance, sets.frechet.value, bars))
    # The fewer the scans, the more often others are near by chance.
    chance = bars.model_copy(update={"copies": max(bars.copies, round(sets.near_copies.null_high, 4))})
    gates.append(gate("model", "copies", "near copies of training images, share", sets.near_copies.value, chance))
    return tuple(gates)


def read_gates(folder: Path) -> tuple[Gate, ...]:
    """The gates recorded in a version's folder; none for models that were registered before there were any.

    Raises:
        ModelError: the record is damaged.
    """
    path = folder / GATES
    try:
        text = path.read_bytes()
        parse_json(text)  # bounded in size and depth: somebody else may have written it
        return tuple(Gate.model_validate(one) for one in unsealed_json(text)["gates"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        do = "remove it; the gates are then those of the model's own figures"
        raise ModelError("the gates of a model are damaged", where=path, got=error, do=do) from error


def gates_document(gates: Iterable[Gate]) -> str:
    """The text of ``gates.json``."""
    return sealed_json({"gates": [one.model_dump(mode="json") for one in gates]})
