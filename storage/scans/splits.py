"""Dividing patients between splits."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from image_longitudinal.core.errors import ConfigError


@dataclass(frozen=True)
class SplitRule:
    """How patients are divided: by ``fractions`` and ``seed``; with ``known`` splits, all others are for training."""

    fractions: Mapping[str, float]
    seed: int
    known: Mapping[str, str] | None = None

    def assign(self, patients: Iterable[str]) -> dict[str, str]:
        """The split of each patient; ConfigError when the fractions are not shares of 1."""
        if self.known is None:
            return assign_splits(patients, self.fractions, self.seed)
        return {patient: self.known.get(patient, "train") for patient in patients}


def assign_splits(patients: Iterable[str], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """Divide patients between splits; each patient is in exactly one.

    Patients are sorted by a hash of (seed, patient), and the list is cut at the cumulative fractions, in the order of
    ``fractions``. The counts are therefore exact to rounding (with at least one patient for every fraction above 0
    if there are enough), and a patient who joins or leaves moves at most one other across each cut.

    Args:
        patients: patient keys, in any order; repeats count once.
        fractions: share of the patients by split name, each ≥ 0, together 1.
        seed: another seed gives another division.

    Raises:
        ConfigError: when the fractions are not shares of 1.
    """
    total = sum(fractions.values())
    if not fractions or min(fractions.values()) < 0 or abs(total - 1) > 1e-6:
        raise ConfigError("split fractions are impossible", expected="each at least 0, together 1", got=dict(fractions))
    line = sorted(set(patients), key=lambda patient: (_hash(seed, patient), patient))
    wanted = [name for name, share in fractions.items() if share > 0]
    result: dict[str, str] = {}
    begin, cumulated = 0, 0.0
    for place, name in enumerate(wanted):
        cumulated += fractions[name]
        end = int(len(line) * cumulated / total + 0.5)
        if len(line) >= len(wanted):
            end = min(max(end, begin + 1), len(line) - (len(wanted) - 1 - place))
        result |= dict.fromkeys(line[begin:end], name)
        begin = end
    return result


def _hash(seed: int, patient: str) -> bytes:
    text = f"{int(seed)}\x1f{patient}".encode(errors="surrogateescape")  # file names need not be valid text
    return hashlib.blake2b(text, digest_size=16).digest()
