"""Whose data set a folder holds, also after damage: claim, root manifest and shard manifests tell it."""

import random

import pytest

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import DamagedError, StorageError
from image_longitudinal.core.plan import Shard
from image_longitudinal.storage.dataset.manifest import finished_shard, owns_shards
from image_longitudinal.storage.dataset.run_claim import (
    begin_run,
    check_configuration,
    check_same_dataset,
    read_run_claim,
)
from image_longitudinal.storage.io.root import Root
from tests.storage.conftest import IDENTITY, PARTS, PLAN, arrays, config_of, digests, resume, write_dataset

OTHER = digest_of("another data set")
CLAIM, MANIFEST = ".run.json", "dataset.json"


def ours(root: Root, part: str = "image") -> bool:
    return owns_shards(root, lambda index: {**PARTS, part: PARTS[part]}, range(3))


def others(root: Root) -> bool:
    return owns_shards(root, lambda index: {**PARTS, "image": OTHER}, range(3))


@pytest.fixture
def unfinished(published: Root) -> Root:
    published.remove(MANIFEST)
    return published


def test_every_flipped_bit_of_a_claim_is_noticed_and_mended(unfinished: Root) -> None:
    good, config = unfinished.read_bytes(CLAIM), config_of(PLAN)
    for bit in random.Random(3).sample(range(8 * len(good)), 200):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        unfinished.write_bytes(CLAIM, bytes(damaged))
        with pytest.raises(DamagedError):
            read_run_claim(unfinished)
        check_configuration(unfinished, config)
        assert begin_run(unfinished, IDENTITY, config, owns_shards=lambda: ours(unfinished)) == "unfinished"
        assert unfinished.read_bytes(CLAIM) == good


@pytest.mark.parametrize("how", ["torn", "removed"])
def test_a_lost_claim_is_rebuilt_from_the_shard_manifests_and_no_other_run_takes_the_folder(
    unfinished: Root, how: str
) -> None:
    good = unfinished.read_bytes(CLAIM)
    unfinished.remove(CLAIM)
    if how == "torn":
        unfinished.write_bytes(CLAIM, good[:50])
    with pytest.raises(DamagedError, match="recognises finished shards, or choose another output"):
        begin_run(unfinished, OTHER, {}, owns_shards=lambda: others(unfinished))
    with pytest.raises(DamagedError):
        check_same_dataset(unfinished, IDENTITY)
    unfinished.write_bytes("shards/00001.json", b"damaged too: the others still tell")
    assert begin_run(unfinished, IDENTITY, config_of(PLAN), owns_shards=lambda: ours(unfinished)) == "unfinished"
    assert unfinished.read_bytes(CLAIM) == good


def test_a_folder_of_somebody_else_is_not_taken_for_a_lost_run(root: Root) -> None:
    root.write_bytes("shards/notes.txt", b"of pottery")
    with pytest.raises(DamagedError):
        begin_run(root, IDENTITY, {}, owns_shards=lambda: ours(root))
    root.remove("shards/notes.txt")
    for content in (b"{}", b"of another tool"):
        root.write_bytes(MANIFEST, content)
        for refuse in (lambda: check_configuration(root, {}), lambda: begin_run(root, IDENTITY, {})):
            with pytest.raises(DamagedError, match=r"dataset\.json"):
                refuse()
    root.remove(MANIFEST)
    root.write_bytes("holiday.jpg", b"")
    with pytest.raises(StorageError, match="already holds other files"):
        begin_run(root, IDENTITY, {}, owns_shards=lambda: ours(root))


def test_a_run_killed_after_a_torn_claim_starts_over(root: Root) -> None:
    root.write_bytes(CLAIM, b"")
    assert begin_run(root, IDENTITY, {"seed": 1}) == "unfinished"
    assert read_run_claim(root).config == {"seed": 1}


def test_a_damaged_root_manifest_makes_a_data_set_unfinished(published: Root) -> None:
    published.write_bytes(MANIFEST, published.read_bytes(MANIFEST).replace(b"22", b"23"))
    assert check_same_dataset(published, IDENTITY) == "unfinished"
    with pytest.raises(StorageError, match="different data set"):
        check_same_dataset(published, OTHER)


def test_a_claim_of_a_version_without_digests_is_read(root: Root) -> None:
    begin_run(root, IDENTITY, {"seed": 1})
    text = root.read_bytes(CLAIM)
    root.write_bytes(CLAIM, b"\n".join(line for line in text.splitlines() if b"content_sha256" not in line))
    assert read_run_claim(root).identity == IDENTITY


def test_a_run_makes_exactly_the_damaged_shards_again(root: Root) -> None:
    """In any file of an unfinished run one bit flips: the size stays, and the same run ends in the same files."""
    write_dataset(root)
    root.remove(MANIFEST)
    resume(root, arrays(), PLAN)  # without card and report
    whole = digests(root)
    for path in [path for path in whole if path != MANIFEST and not path.startswith(("README", "croissant"))]:
        root.remove(MANIFEST)
        content = bytearray(root.read_bytes(path))
        content[len(content) // 3] ^= 4
        root.write_bytes(path, bytes(content))
        wanted = [shard.index for shard in PLAN if not isinstance(finished(root, shard), str)]
        made = resume(root, arrays(), PLAN)
        assert digests(root) == whole, path
        assert sorted([*made, *wanted]) == [0, 1, 2]
        assert len(made) == (path != CLAIM and not path.endswith("zarr.json"))


def finished(root: Root, shard: Shard) -> object:
    return finished_shard(root, shard.index, PARTS, rehash=True)
