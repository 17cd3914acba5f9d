"""Images of subjects, as learners take them: grey, small, one or more a subject."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import adaptive_avg_pool2d

from image_longitudinal.models.evaluation.ridge import row_chunks

FloatArray = NDArray[np.float64]
SIDE = 32  # pixels a side that images are averaged down to: layers stay resolved, speckle averages out
COMPONENTS = 64  # principal components that are features at most; and one for five subjects
FLATTEST = 1e-6  # of the largest variance: directions below are none


@dataclass(frozen=True, eq=False)
class SubjectImages:
    """Images (N, H, W) float32, grey 0 to 1, at most 32 pixels a side, and the subject (N,) that each is of.

    Subjects are numbered 0 to ``subjects`` - 1, and each has an image. All images of a subject count equally.
    """

    pixels: NDArray[np.float32]
    owner: NDArray[np.int64]
    subjects: int

    @classmethod
    def of(cls, images: NDArray[np.uint8], owner: ArrayLike | None = None) -> "SubjectImages":
        """Grey images (N, H, W) uint8, averaged down; image i is of subject i if there is no ``owner`` (N,)."""
        own = np.arange(len(images)) if owner is None else np.asarray(owner, np.int64)
        size = min(images.shape[1], SIDE), min(images.shape[2], SIDE)
        parts = [
            adaptive_avg_pool2d(torch.from_numpy(images[rows].astype(np.float32) / 255)[:, None], size)[:, 0].numpy()
            for rows in row_chunks(len(images), 1_000)
        ]
        return cls(np.concatenate(parts), own, int(own.max(initial=-1)) + 1)

    def __len__(self) -> int:
        return self.subjects

    def take(self, subjects: NDArray[np.int64]) -> "SubjectImages":
        """The images of some subjects, which are numbered anew in their order."""
        order = np.argsort(self.owner, kind="stable")
        first = np.searchsorted(self.owner[order], subjects)
        counts = np.searchsorted(self.owner[order], subjects, side="right") - first
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = order[np.repeat(first, counts) + within]
        return SubjectImages(self.pixels[rows], np.repeat(np.arange(len(subjects)), counts), len(subjects))

    def averaged(self, by_image: FloatArray) -> FloatArray:
        """Means over the images of each subject (n, T) of what each image (N, T) has."""
        total = np.zeros((self.subjects, by_image.shape[1]))
        np.add.at(total, self.owner, by_image)
        return total / np.bincount(self.owner, minlength=self.subjects)[:, None]


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """Scores of images on the whitened principal axes (P, K) of the training images, whose mean is ``centre`` (P,)."""

    centre: FloatArray
    axes: FloatArray

    @classmethod
    def of(cls, images: SubjectImages, components: int = COMPONENTS) -> "PrincipalComponents":
        """Of training images, which need no outcomes for it; at most one component for five subjects."""
        flat = images.pixels.reshape(len(images.pixels), -1).astype(np.float64)
        centre = flat.mean(0)
        variances, axes = np.linalg.eigh(flat.T @ flat / len(flat) - np.outer(centre, centre))
        order = np.argsort(-variances)[: max(1, min(components, len(images) // 5))]
        order = order[variances[order] > FLATTEST * max(variances.max(), 1e-300)]
        return cls(centre, np.ascontiguousarray(axes[:, order] / np.sqrt(variances[order])))

    def __call__(self, images: SubjectImages) -> FloatArray:
        """Features (n, K) of subjects."""
        flat = images.pixels.reshape(len(images.pixels), -1).astype(np.float64)
        return images.averaged((flat - self.centre) @ self.axes)
