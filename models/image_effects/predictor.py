"""g as a file: what turns the images of new subjects into means of their random effects. Loading it runs no code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_longitudinal.core.errors import ModelError
from image_longitudinal.models.image_effects.linear_head import LinearHead
from image_longitudinal.models.image_effects.network_head import NetworkHead, SmallNetwork
from image_longitudinal.models.image_effects.subject_images import PrincipalComponents, SubjectImages
from image_longitudinal.models.training.tensor_files import load_tensors, save_tensors

FloatArray = NDArray[np.float64]
VERSION = 1  # of the file


@dataclass(frozen=True, eq=False)
class ImagePredictor:
    """g of images, or of features that an encoder has read, and the variance around it.

    ``reader`` makes features of images, if the head needs any; ``omega`` is Ω_r and ``total`` Ω without images, (k, k);
    ``effects`` (k,) are their names. ``encoder``: model that reads features in its place; ``size``: height and width
    of the images; ``by``: how likelihoods are approximated.
    """

    reader: PrincipalComponents | None
    head: LinearHead | NetworkHead
    omega: FloatArray
    total: FloatArray
    effects: tuple[str, ...]
    encoder: str | None
    size: tuple[int, int]
    by: str

    def __call__(self, images: SubjectImages | FloatArray) -> FloatArray:
        """g (n, k) of the images, or of an encoder's features (n, F), of n subjects."""
        read = self.reader(images) if self.reader and isinstance(images, SubjectImages) else images
        if isinstance(self.head, NetworkHead):
            return self.head(read)
        assert not isinstance(read, SubjectImages)
        return self.head(read)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        arrays: dict[str, NDArray[np.generic]] = {"omega": self.omega, "total": self.total}
        if self.reader is not None:
            arrays |= {"reader.centre": self.reader.centre, "reader.axes": self.reader.axes}
        arrays |= {f"head.{name}": own for name, own in vars(self.head).items() if name != "networks"}
        tensors = {name: torch.from_numpy(np.array(own)) for name, own in arrays.items()}
        shape: tuple[int, ...] = ()
        if isinstance(self.head, NetworkHead):
            for number, network in enumerate(self.head.networks):
                assert isinstance(network, SmallNetwork)
                shape = network.shape
                tensors |= {f"network{number}.{name}": own for name, own in network.state_dict().items()}
        content = {
            "version": VERSION, "effects": self.effects, "encoder": self.encoder, "size": self.size, "by": self.by,
            "shape": shape, "networks": len(self.head.networks) if isinstance(self.head, NetworkHead) else 0,
        }  # fmt: skip
        save_tensors(path, tensors, {"image-predictor": json.dumps(content)})

    @classmethod
    def load(cls, path: Path) -> "ImagePredictor":
        """Read what :meth:`save` wrote.

        Raises:
            ModelError: the file is missing, damaged, or something else.
        """
        tensors, metadata = load_tensors(path)
        try:
            content = json.loads(metadata["image-predictor"])
            if content["version"] != VERSION:
                raise ModelError("a file of another version", where=path, expected=VERSION, got=content["version"])
            arrays = {name: own.numpy() for name, own in tensors.items() if not name.startswith("network")}
            reader = None
            if "reader.axes" in arrays:
                reader = PrincipalComponents(arrays["reader.centre"], arrays["reader.axes"])
            own = {name.removeprefix("head."): value for name, value in arrays.items() if name.startswith("head.")}
            networks = tuple(_network(tensors, content, number) for number in range(content["networks"]))
            head = NetworkHead(networks=networks, **own) if networks else LinearHead(**own)
            return cls(
                reader, head, arrays["omega"], arrays["total"], tuple(content["effects"]), content["encoder"],
                tuple(content["size"]), content["by"],
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ModelError("no predictor of random effects from images", where=path, got=error) from error


def _network(tensors: Mapping[str, Tensor], content: Mapping[str, list[int]], number: int) -> SmallNetwork:
    prefix = f"network{number}."
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    network = SmallNetwork(tuple(content["shape"]), len(content["effects"]))
    network.load_state_dict(own)
    return network.eval()
