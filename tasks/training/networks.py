"""The files of a trained network in the workspace, checked whenever they are used."""

from pathlib import Path
from typing import Self, TypeVar

from torch import Tensor

from image_longitudinal.core.config import Section
from image_longitudinal.core.digest import file_sha256, file_sha256_once, sealed_json, unsealed_json
from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.files import write_atomically
from image_longitudinal.models.registry.metadata import DiffusionTraining
from image_longitudinal.models.training.tensor_files import load_tensors, save_tensors

FiguresT = TypeVar("FiguresT", bound=Section)


class TrainedNetwork(Section):
    """The files of a training: weights (safetensors) with their SHA-256, and figures (JSON), which repeats it."""

    weights: str
    sha256: str
    figures: str

    @classmethod
    def write(cls, path: Path, weights: dict[str, Tensor], figures: Section) -> None:
        """Write the files of a training whose network is called like ``path``, the figures last."""
        file, record = _training_files(path)
        save_tensors(file, weights)
        content = {"weights": file_sha256(file), "figures": figures.model_dump(mode="json")}
        write_atomically(record, sealed_json(content))

    @classmethod
    def find(cls, path: Path) -> Self | None:
        """The files of a finished training, or None: not finished, or damaged."""
        file, record = _training_files(path)
        try:
            found = cls(weights=str(file), sha256=unsealed_json(record.read_bytes())["weights"], figures=str(record))
        except (OSError, ValueError, KeyError):
            return None
        return found if found.is_intact() else None

    def is_intact(self) -> bool:
        """Whether both files are as written."""
        try:
            recorded = unsealed_json(Path(self.figures).read_bytes())["weights"]
            return bool(recorded == self.sha256 == file_sha256_once(self.weights))
        except (OSError, ValueError, KeyError):
            return False

    def tensors(self) -> dict[str, Tensor]:
        """The weights; DamagedTensorsError if they are not as written."""
        return load_tensors(Path(self.weights), self.sha256)[0]

    def read_figures(self, kind: type[FiguresT]) -> FiguresT:
        """The figures, checked against their digest.

        Raises:
            ModelError: they are missing or damaged.
        """
        try:
            return kind.model_validate(unsealed_json(Path(self.figures).read_bytes())["figures"])
        except (OSError, ValueError, KeyError) as error:
            do = "run the same command again, which trains what is damaged anew"
            raise ModelError("the figures of a training are damaged", where=self.figures, got=error, do=do) from error


def _training_files(path: Path) -> tuple[Path, Path]:
    return path.with_suffix(".safetensors"), path.with_suffix(".json")


class TrainedDiffusion(Section):
    """The figures of a diffusion training, and what the weights do not hold."""

    training: DiffusionTraining
    residual_scale: float | None
