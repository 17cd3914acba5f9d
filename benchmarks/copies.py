"""How well copies of training scans are found: ``python -m benchmarks.copies SCANS``.

Real scans of a folder are divided by patient, twenty times: training scans, and as many of other patients, which stand
for the images of a clean model. Altered copies of training scans take the place of 0.5, 2 and 10 % of them.

The threshold of the project was set from these scans. So it is set again, twenty times, from half of the patients
alone, halfway between copies and scans of others, and judged on the other half.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from image_longitudinal.models.quality.copies import correlation_distances, nearest_of
from image_longitudinal.models.quality.judge.resampling import disjoint_sets
from image_longitudinal.models.scans.cleaning import frame, replace_fill, resize, to_grey
from image_longitudinal.storage.scans.scan_files import SetAside, find_scans, read_scan

Grey = NDArray[np.uint8]
Matrix = NDArray[np.float64]

DIVISIONS, SHARES = 20, (0.005, 0.02, 0.1)
EVERY = 3  # every so manieth scan is copied


def _bytes(values: NDArray[np.floating]) -> Grey:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _noisy(scan: Grey) -> Grey:
    return _bytes(scan + np.random.default_rng(int(scan.sum())).normal(0, 12, scan.shape))


def _cropped(scan: Grey) -> Grey:
    """As training crops, at the top."""
    return resize(scan[: round(len(scan) * 190 / 224)], len(scan))


def _all(scan: Grey) -> Grey:
    return _bytes(ndimage.gaussian_filter(np.roll(scan[:, ::-1], (2, -3), (0, 1)).astype(float), 0.8) * 0.8 + 15)


# What is done to a copy at 64 pixels a side.
KINDS: dict[str, Callable[[Grey], Grey]] = {
    "exact": lambda scan: scan,
    "shifted by 3 and 4 pixels": lambda scan: np.roll(scan, (3, 4), (0, 1)),
    "mirrored": lambda scan: scan[:, ::-1],
    "blurred by 1 pixel": lambda scan: ndimage.gaussian_filter(scan, 1.0),
    "gamma 0.6, contrast 0.8": lambda scan: _bytes(255 * (scan / 255) ** 0.6 * 0.8 + 20),
    "cropped as in training": _cropped,
    "with noise of 12 grey levels": _noisy,
    "mirrored, shifted, blurred, less contrast": _all,
}


def scans_of(folder: Path, size: int = 64) -> tuple[Grey, NDArray[np.str_]]:
    """All scans of a folder, not denoised, (n, size, size), and their patients (n,)."""
    images, patients = [], []
    for file in find_scans(folder).scans:
        scan = read_scan(file)
        if not isinstance(scan, SetAside):
            images.append(resize(frame(replace_fill(to_grey(scan.content))), size))
            patients.append(file.patient)
    return np.stack(images), np.array(patients)


def altered_copies(images: Grey) -> tuple[NDArray[np.int64], dict[str, Matrix]]:
    """Which scans (n, S, S) are copied, (m,), and by kind the distances (m, n) of their copies to all scans."""
    copied = np.arange(0, len(images), EVERY)
    return copied, {
        name: correlation_distances(np.stack([alter(images[one]) for one in copied]), images)
        for name, alter in KINDS.items()
    }


def main() -> None:
    """Print what is found of every kind and share, and the false alarms among scans of other patients."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    images, patients = scans_of(parser.parse_args().folder)
    among = correlation_distances(images, images)
    copied, altered = altered_copies(images)
    rng = np.random.default_rng(0)
    divisions = [disjoint_sets(patients, len(images) // 2, rng) for _ in range(DIVISIONS)]
    clean = [nearest_of(among[np.ix_(other, train)]) for train, other in divisions]
    alarms = sum(bool(one.copies.any()) for one in clean)
    least = min(float(one.ratio.min()) for one in clean)
    print(f"{len(images)} scans; clean sets with an alarm: {alarms} of {DIVISIONS}; least ratio {least:.3f}; "
          f"images taken for copies: {sum(int(one.copies.sum()) for one in clean)}")  # fmt: skip
    print(
        "| copies | found | largest ratio | sets with 0.5 %, 2 %, 10 % copies that raise an alarm |\n|---|---|---|---|"
    )
    for name, distances in altered.items():
        known = [(np.flatnonzero(np.isin(copied, train)), train) for train, _ in divisions]
        found = [nearest_of(distances[np.ix_(of, train)]) for of, train in known]
        share = float(np.mean(np.concatenate([one.copies for one in found])))
        largest = max(float(one.ratio.max()) for one in found)
        raised = []
        for part in SHARES:
            count = max(1, round(part * len(images) / 2))
            planted = [rng.choice(len(one.copies), count, False) for one in found]
            raised.append(sum(bool(one.copies[which].any()) for one, which in zip(found, planted, strict=True)))
        shown = ", ".join(f"{count} of {DIVISIONS}" for count in raised)
        print(f"| {name} | {share:.1%} | {largest:.2f} | {shown} |", flush=True)
    _judge_on_others(patients, among, altered, copied)


def _judge_on_others(
    patients: NDArray[np.str_], among: Matrix, altered: dict[str, Matrix], copied: NDArray[np.int64]
) -> None:
    """Set the threshold from half of the patients and print what it finds among the others."""
    rng, thresholds, alarms, found = np.random.default_rng(1), [], 0, []
    for _ in range(DIVISIONS):
        ratios = []
        for half in disjoint_sets(patients, len(patients) // 2, rng):
            train, other = (half[part] for part in disjoint_sets(patients[half], len(half) // 2, rng))
            rows = np.flatnonzero(np.isin(copied, train))
            of_copies = [nearest_of(of[np.ix_(rows, train)]).ratio for of in altered.values()]
            ratios.append((np.concatenate(of_copies), nearest_of(among[np.ix_(other, train)]).ratio))
        (known_copies, known_others), (copies, others) = ratios
        threshold = (known_copies.max() + known_others.min()) / 2
        thresholds.append(threshold)
        alarms += bool((others < threshold).any())
        found.append(float((copies < threshold).mean()))
    print(f"thresholds from half of the patients: {min(thresholds):.3f} to {max(thresholds):.3f}")
    print(f"on the other half: {np.mean(found):.2%} of all copies found, {min(found):.2%} at least; ", end="")
    print(f"{alarms} of {DIVISIONS} clean sets with an alarm")


if __name__ == "__main__":
    main()
