"""Near-duplicates: a scan saved again, resized or brightened is found; other scans are not."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from image_longitudinal.storage.scans import near_duplicates as module
from image_longitudinal.storage.scans.near_duplicates import near_duplicates, perceptual_hash


def test_every_close_pair_of_different_groups_is_found_and_no_other():
    """Against all pairs compared one by one, on random hashes with close ones planted."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (60, 32)).astype(np.uint8)
    for i in range(0, 60, 3):  # a neighbour at every distance from 0 to 19
        bits = np.unpackbits(hashes[i])
        bits[rng.choice(256, i // 3, replace=False)] ^= 1
        hashes[i + 1] = np.packbits(bits)
    groups = [str(i // 2) for i in range(60)]
    expected = []
    for i, j in itertools.combinations(range(60), 2):
        distance = int(np.unpackbits(hashes[i] ^ hashes[j]).sum())
        if distance <= module.MAX_DISTANCE and groups[i] != groups[j]:
            expected.append(module.NearDuplicate(i, j, distance))
    assert len(expected) >= 7
    assert near_duplicates(hashes, groups) == expected


def changed(image, kind):
    picture = Image.fromarray(image)
    if kind == "jpeg":
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=50)
        return np.asarray(Image.open(buffer))
    if kind == "resized":
        return np.asarray(picture.resize((400, 400)))
    return np.clip(image * 1.15 + 6, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["jpeg", "resized", "brightened"])
def test_a_changed_copy_of_a_real_scan_is_close_and_other_scans_are_not(kermany_sample, kind):
    scans = [np.asarray(Image.open(path).resize((512, 512))) for path in sorted(kermany_sample.glob("*/*.jpeg"))[::38]]
    hashes = np.stack([perceptual_hash(scan) for scan in scans])
    copies = np.stack([perceptual_hash(changed(scan, kind)) for scan in scans])
    n = len(scans)
    groups = [f"patient {i}" for i in range(2 * n)]
    found = near_duplicates(np.concatenate([hashes, copies]), groups)
    assert [(pair.first, pair.second) for pair in found] == [(i, i + n) for i in range(n)]
