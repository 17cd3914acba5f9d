"""Trained models on disk: immutable versions named by their content, and aliases that point to them.

::

    <root>/<version>/model.json            what it is: architecture, training key, figures; lists the other files
    <root>/<version>/*.safetensors         weights
    <root>/<version>/README.md             model card
    <root>/aliases.json                    {"production": "<version>"}
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from core.digest import SHORT, digest_of, file_sha256
from core.errors import ModelError
from models.tensors import load_tensors, save_tensors

MODEL, CARD, ALIASES = "model.json", "README.md", "aliases.json"


@dataclass(frozen=True)
class ModelVersion:
    """One registered version: its folder, its name and the content of its model.json."""

    folder: Path
    content: dict[str, Any]

    @property
    def version(self) -> str:
        """Twelve hex digits of the digest: what people type."""
        return self.digest[:SHORT]

    @property
    def digest(self) -> str:
        """Names the content: weights, architecture and figures (64 hex digits)."""
        return str(self.content["digest"])

    @property
    def metadata(self) -> dict[str, Any]:
        """What the training recorded."""
        return dict(self.content["metadata"])

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The weights called ``name``, checked against the digest recorded at registration.

        Raises:
            ModelError: they are missing or not the ones that were registered.
        """
        path = self.folder / f"{name}.safetensors"
        expected = self.content["files"].get(path.name)
        if path.exists() and file_sha256(path) != expected:
            raise ModelError(
                "registered weights were altered",
                where=path,
                expected=f"sha256 {expected}",
                do="remove this version's folder and train again",
            )
        return load_tensors(path)[0]


class Registry:
    """The versions in one local folder (created on the first registration)."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def register(
        self, weights: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, Any], card: str
    ) -> ModelVersion:
        """Store a version; registering equal content again returns the one that is there.

        Args:
            weights: state by file name (without ``.safetensors``).
            metadata: what :attr:`ModelVersion.metadata` will give back; plain JSON values.
            card: text of the model card.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = self.root / f".{uuid.uuid4().hex[:8]}.tmp"
        temporary.mkdir()
        try:
            for name, tensors in weights.items():
                save_tensors(temporary / f"{name}.safetensors", dict(tensors))
            files = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
            content: dict[str, Any] = {"format": 1, "files": files, "metadata": dict(metadata)}
            content["digest"] = digest_of(content)
            (temporary / MODEL).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
            (temporary / CARD).write_text(card)
            folder = self.root / content["digest"][:SHORT]
            if not (folder / MODEL).exists():
                os.replace(temporary, folder)
            return ModelVersion(folder, content)
        except OSError as error:
            raise ModelError("cannot register the model", where=self.root, got=error, do="free space") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def versions(self) -> list[ModelVersion]:
        """Every registered version, by name."""
        # A registration that was killed may have left its hidden temporary folder.
        return [self._open(path.parent) for path in sorted(self.root.glob(f"[!.]*/{MODEL}"))]

    def find(self, training_key: str) -> ModelVersion | None:
        """The version whose training had this key (data, configuration and code), if there is one."""
        return next((v for v in self.versions() if v.content["metadata"].get("training_key") == training_key), None)

    def get(self, name: str) -> ModelVersion:
        """A version by its name, a unique beginning of it (six digits at least), or an alias.

        Raises:
            ModelError: there is none; says which there are.
        """
        wanted = self.aliases().get(name, name)
        found = [v for v in self.versions() if v.digest.startswith(wanted) and len(wanted) >= 6]
        if len(found) != 1:
            known = [*self.aliases(), *(v.version for v in self.versions())]
            raise ModelError(
                "no such model",
                where=self.root,
                expected=f"one of {', '.join(known)}" if known else "a registered model, and there is none",
                got=name,
                do="train one with: image-longitudinal train",
            )
        return found[0]

    def aliases(self) -> dict[str, str]:
        """Version by alias."""
        try:
            return dict(json.loads((self.root / ALIASES).read_text()))
        except FileNotFoundError:
            return {}
        except (TypeError, ValueError) as error:
            raise ModelError(
                "the aliases file is damaged", where=self.root / ALIASES, got=error, do="remove it and train again"
            ) from error

    def set_alias(self, alias: str, version: str) -> None:
        """Let an alias point to a version, replacing the file as a whole."""
        aliases = {**self.aliases(), alias: version}
        temporary = self.root / f".{ALIASES}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            temporary.write_text(json.dumps(aliases, indent=1, sort_keys=True) + "\n")
            os.replace(temporary, self.root / ALIASES)
        except OSError as error:
            raise ModelError(
                "cannot write the aliases", where=self.root / ALIASES, got=error, do="free space"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _open(self, folder: Path) -> ModelVersion:
        try:
            content = json.loads((folder / MODEL).read_text())
            recorded = content.pop("digest")
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                "a registered model is damaged", where=folder, got=error, do="remove this folder and train again"
            ) from error
        if digest_of(content) != recorded:
            raise ModelError(
                "a registered model was altered",
                where=folder,
                expected=f"digest {recorded}",
                do="remove this folder and train again",
            )
        return ModelVersion(folder, {**content, "digest": recorded})
