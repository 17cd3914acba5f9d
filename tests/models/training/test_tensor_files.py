"""Tensors on disk: whole or not at all, and one clear error for everything that can be wrong with a file."""

import errno
from pathlib import Path

import pytest
import torch

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.training import tensor_files as module
from image_longitudinal.models.training.tensor_files import load_tensors, save_tensors, tensors_digest


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


def test_a_full_disk_leaves_only_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    save_tensors(path, {"a": torch.ones(3)})
    monkeypatch.setattr(module, "save_file", fail_half_way)
    for target in (path, tmp_path / "new.safetensors"):
        with pytest.raises(ModelError, match=r"cannot write tensors .*No space left.* Free space") as caught:
            save_tensors(target, {"a": torch.zeros(3)})
        assert isinstance(caught.value.__cause__, OSError)
    assert torch.equal(load_tensors(path)[0]["a"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ModelError, match="cannot write tensors"):  # a file in place of the folder
        save_tensors(path / "weights.safetensors", {"a": torch.zeros(3)})


def fail_half_way(tensors: object, filename: Path, metadata: object) -> None:
    filename.write_bytes(b"half a file")
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "text"])
def test_a_damaged_file_is_a_model_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_tensors(path, {"a": torch.arange(100.0)})
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-50], "header": b"\xff" * 8 + content[8:], "empty": b"", "text": b"{}"}[damage])
    with pytest.raises(ModelError, match=r"damaged .*weights\.safetensors.*train again"):
        load_tensors(path)
    with pytest.raises(ModelError, match=r"missing .*none\.safetensors"):
        load_tensors(tmp_path / "none.safetensors")


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
