"""Tensors on disk: whole or not at all, and one clear error for everything that can be wrong with a file."""

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from image_longitudinal.core.errors import ConfigError, ModelError
from image_longitudinal.models.training import tensors as module
from image_longitudinal.models.training.tensors import (
    default_device,
    load_tensors,
    save_tensors,
    tensors_digest,
    to_grey_levels,
    to_unit,
)


def test_tensors_and_metadata_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "weights.safetensors"
    saved = {
        "float": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_(),
        "half": torch.randn(3).to(torch.bfloat16),
        "int": torch.tensor(7),
        "bytes": torch.arange(6, dtype=torch.uint8).reshape(2, 3).T,
        "empty": torch.zeros(0, 3),
    }
    save_tensors(path, saved, {"step": "3"})
    loaded, metadata = load_tensors(path)
    assert metadata == {"step": "3"}
    assert loaded.keys() == saved.keys()
    for key, value in saved.items():
        assert loaded[key].dtype == value.dtype
        assert torch.equal(loaded[key], value.detach())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "save_file", fail_half_way)
    with pytest.raises(ModelError, match=r"cannot write tensors .*weights.*No space left.* Free space") as caught:
        save_tensors(tmp_path / "weights.safetensors", {"a": torch.zeros(3)})
    assert isinstance(caught.value.__cause__, OSError)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    save_tensors(path, {"a": torch.ones(3)})
    monkeypatch.setattr(module, "save_file", fail_half_way)
    with pytest.raises(ModelError):
        save_tensors(path, {"a": torch.zeros(3)})
    assert torch.equal(load_tensors(path)[0]["a"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [path]


def fail_half_way(tensors: object, filename: Path, metadata: object) -> None:
    filename.write_bytes(b"half a file")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_that_cannot_be_made_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot write tensors"):
        save_tensors(tmp_path / "file" / "weights.safetensors", {"a": torch.zeros(3)})


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "text"])
def test_a_damaged_file_is_a_model_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_tensors(path, {"a": torch.arange(100.0)})
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-50], "header": b"\xff" * 8 + content[8:], "empty": b"", "text": b"{}"}[damage])
    with pytest.raises(ModelError, match=r"damaged .*weights\.safetensors.*train again"):
        load_tensors(path)


def test_a_missing_file_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"missing .*none\.safetensors"):
        load_tensors(tmp_path / "none.safetensors")


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_grey_levels_survive_the_way_there_and_back(n: int, size: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (n, size, size), dtype=np.uint8)
    unit = to_unit(images, "cpu")
    assert unit.shape == (n, 1, size, size)
    assert unit.dtype == torch.float32
    assert 0 <= unit.min() <= unit.max() <= 1
    np.testing.assert_array_equal(to_grey_levels(unit), images)


def test_grey_levels_are_rounded_and_clamped() -> None:
    values = torch.tensor([-0.5, 0.49 / 255, 0.51 / 255, 254.6 / 255, 1.7]).reshape(5, 1, 1, 1)
    assert to_grey_levels(values).ravel().tolist() == [0, 0, 1, 255, 255]


def test_devices_by_name() -> None:
    assert default_device("cpu") == torch.device("cpu")
    assert default_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "hpu", ""])
def test_a_device_that_is_not_there_is_a_configuration_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"compute\.device cannot be used"):
        default_device(name)


def test_a_digest_of_tensors_sees_names_types_shapes_and_bits_and_nothing_else() -> None:
    tensors = {
        "matrix": torch.arange(6.0).reshape(2, 3),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "count": torch.tensor(1),
        "empty": torch.zeros(0),
    }
    digest = tensors_digest(tensors)
    strided = {"matrix": torch.arange(6.0).reshape(2, 3).T.contiguous().T.requires_grad_()}
    assert tensors_digest({**dict(reversed(tensors.items())), **strided}) == digest
    others = [
        {**tensors, "count": torch.tensor(2)},
        {**tensors, "count": torch.tensor(1, dtype=torch.int32)},
        {**tensors, "matrix": torch.arange(6.0).reshape(3, 2)},
        {("other" if name == "half" else name): value for name, value in tensors.items()},
    ]
    assert len({digest, *(tensors_digest(other) for other in others)}) == 5
    assert tensors_digest({}) is None
