"""Trained models: immutable versions named by their content, and aliases that point to them.

::

    <root>/<version>/model.json            networks, training key, figures, SHA-256 of the weights (metadata.py)
    <root>/<version>/*.safetensors         weights
    <root>/<version>/README.md             model card
    <root>/aliases.json                    {"production": "<version>", "candidate": "<version>"}

The root is a local folder. With a shared address (any fsspec URL, the same layout) new versions are also stored there,
versions registered on other machines are fetched on request, and the shared aliases are used.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from image_longitudinal.core.digest import SHORT, file_sha256
from image_longitudinal.core.errors import ModelError
from image_longitudinal.core.files import write_atomically
from image_longitudinal.models.registry.metadata import (
    WEIGHTS,
    ModelFile,
    ModelMetadata,
    read_model_file,
    write_model_file,
)
from image_longitudinal.models.registry.shared_folder import SharedFolder
from image_longitudinal.models.training.tensors import load_tensors, save_tensors

MODEL, CARD, ALIASES = "model.json", "README.md", "aliases.json"
PRODUCTION, CANDIDATE = "production", "candidate"


@dataclass(frozen=True)
class ModelVersion:
    """One registered version: its folder and the content of its model.json."""

    folder: Path
    digest: str  # 64 hex digits over weights, configuration and figures
    files: dict[str, str]  # SHA-256 by name of weights file
    metadata: ModelMetadata

    @property
    def version(self) -> str:
        """The first twelve hex digits of the digest, for command lines."""
        return self.digest[:SHORT]

    @property
    def card(self) -> str:
        """The text of the model card."""
        path = self.folder / CARD
        return path.read_text() if path.exists() else ""

    def all_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Every group of weights by name; see :meth:`tensors`."""
        return {name: self.tensors(name) for name in (file.removesuffix(WEIGHTS) for file in self.files)}

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The weights called ``name``, checked against the SHA-256 recorded at registration.

        Raises:
            ModelError: they are missing, or differ from those that were registered.
        """
        path = self.folder / f"{name}{WEIGHTS}"
        expected = self.files.get(path.name)
        if path.exists() and file_sha256(path) != expected:
            raise ModelError(
                "registered weights were altered",
                where=path,
                expected=f"sha256 {expected}",
                do="remove this version's folder and train again",
            )
        return load_tensors(path)[0]


class Registry:
    """The versions in one local folder (created on the first registration), shared or not.

    Args:
        root: the local folder.
        shared: fsspec URL of the folder that several machines share; None for the local folder alone.
    """

    def __init__(self, root: str | Path, shared: str | None = None) -> None:
        self.root = Path(root)
        self.shared = SharedFolder(shared) if shared else None

    def register(self, weights: Mapping[str, Mapping[str, Tensor]], metadata: ModelMetadata, card: str) -> ModelVersion:
        """Store a version; registering equal content again returns the existing one.

        Args:
            weights: state by file name (without ``.safetensors``).
            metadata: see :attr:`ModelVersion.metadata`.
            card: text of the model card.
        """
        with self._new_folder() as temporary:
            for name, tensors in weights.items():
                save_tensors(temporary / f"{name}{WEIGHTS}", dict(tensors))
            files = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
            text, content = write_model_file(files, metadata)
            (temporary / MODEL).write_text(text)
            (temporary / CARD).write_text(card)
            version = self._keep(temporary, content)
        if self.shared:
            self._share(version)
        return version

    def add(self, folder: str | Path | SharedFolder) -> ModelVersion:
        """Add an exported version unchanged: same content, same name.

        Args:
            folder: local, or at any fsspec URL.

        Raises:
            ModelError: it is no version's folder, or a file differs from its recorded SHA-256.
        """
        source = folder if isinstance(folder, SharedFolder) else SharedFolder(str(folder))
        text = source.read(MODEL)
        if text is None:
            raise ModelError(
                "no model here", where=source.url, expected=f"a folder with {MODEL}",
                do="name a folder that image-longitudinal models export has written",
            )  # fmt: skip
        content = read_model_file(text, source.url)
        with self._new_folder() as temporary:
            (temporary / MODEL).write_bytes(text)
            for name, expected in content.files.items():
                source.fetch(name, temporary / name)
                if file_sha256(temporary / name) != expected:
                    raise ModelError(
                        "a model file was altered", where=f"{source.url}/{name}", expected=f"sha256 {expected}",
                        do="export or copy the version again",
                    )  # fmt: skip
            (temporary / CARD).write_bytes(source.read(CARD) or b"")
            version = self._keep(temporary, content)
        if self.shared and source.url != self.shared.join(version.version):
            self._share(version)
        return version

    def versions(self) -> list[ModelVersion]:
        """Every intact version, by name; weights of those that are only shared are fetched by :meth:`get`."""
        return [found for found in self._scan().values() if isinstance(found, ModelVersion)]

    def damaged(self) -> dict[str, ModelError]:
        """The errors of unusable version folders, by name; they do not affect the other versions."""
        return {name: found for name, found in self._scan().items() if isinstance(found, ModelError)}

    def find(self, training_key: str) -> ModelVersion | None:
        """The version with this training key (the digest of the spec that decided it), or None."""
        found = next((v for v in self.versions() if v.metadata.training_key == training_key), None)
        return found and self._fetched(found)

    def get(self, name: str) -> ModelVersion:
        """A version by name, unique prefix of at least six digits, or alias; its files are fetched if needed.

        Raises:
            ModelError: no version matches, or the matching one is damaged.
        """
        wanted = self.aliases().get(name, name)
        known = self._scan()
        for folder, problem in known.items():
            if isinstance(problem, ModelError) and len(wanted) >= 6 and folder.startswith(wanted[:SHORT]):
                raise problem
        intact = [version for version in known.values() if isinstance(version, ModelVersion)]
        found = [version for version in intact if version.digest.startswith(wanted) and len(wanted) >= 6]
        if len(found) != 1:
            names = [*self.aliases(), *(version.version for version in intact)]
            raise ModelError(
                "no such model",
                where=self.shared.url if self.shared else self.root,
                expected=f"one of {', '.join(names)}" if names else "a registered model, and there is none",
                got=name,
                do="train one with: image-longitudinal train",
            )
        return self._fetched(found[0])

    def aliases(self) -> dict[str, str]:
        """Version by alias."""
        where = self.shared.join(ALIASES) if self.shared else self.root / ALIASES
        try:
            text = self.shared.read(ALIASES) if self.shared else (self.root / ALIASES).read_bytes()
            return dict(json.loads(text)) if text is not None else {}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ModelError("cannot read the aliases", where=where, got=error) from error
        except (TypeError, ValueError) as error:
            raise ModelError(
                "the aliases file is damaged", where=where, got=error, do="remove it and set the aliases again"
            ) from error

    def set_alias(self, alias: str, version: str) -> None:
        """Point an alias to an existing version."""
        aliases = {**self.aliases(), alias: self.get(version).version}
        text = json.dumps(aliases, indent=1, sort_keys=True) + "\n"
        if self.shared:
            self.shared.write(ALIASES, text.encode())
            return
        try:
            write_atomically(self.root / ALIASES, text.encode())
        except OSError as error:
            raise ModelError(
                "cannot write the aliases", where=self.root / ALIASES, got=error, do="free space"
            ) from error

    def _scan(self) -> dict[str, ModelVersion | ModelError]:
        """Version or error by folder name, for local folders and for those that are only shared."""
        found: dict[str, ModelVersion | ModelError] = {}
        # A registration that was killed may have left its hidden temporary folder.
        for path in sorted(self.root.glob(f"[!.]*/{MODEL}")):
            found[path.parent.name] = self._open(path.parent, path.read_bytes)
        for name in self.shared.folders_with(MODEL) if self.shared else ():
            if name not in found:
                found[name] = self._open(self.root / name, partial(self._read_shared, f"{name}/{MODEL}"))
        return dict(sorted(found.items()))

    def _read_shared(self, path: str) -> bytes:
        assert self.shared is not None
        return self.shared.read(path) or b""

    def _open(self, folder: Path, read: Callable[[], bytes]) -> ModelVersion | ModelError:
        try:
            return ModelVersion(folder, *read_model_file(read(), folder))
        except ModelError as error:
            return error
        except OSError as error:
            return ModelError("a registered model cannot be read", where=folder, got=error)

    def _fetched(self, version: ModelVersion) -> ModelVersion:
        """The version with its files on this machine."""
        if self.shared and not version.folder.exists():
            return self.add(SharedFolder(self.shared.join(version.version)))
        return version

    @contextlib.contextmanager
    def _new_folder(self) -> Iterator[Path]:
        """A hidden folder to fill; removed at the end unless it was renamed to a version's name."""
        temporary = self.root / f".{uuid.uuid4().hex[:8]}.tmp"
        try:
            temporary.mkdir(parents=True)
            yield temporary
        except OSError as error:
            raise ModelError("cannot register the model", where=self.root, got=error, do="free space") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _keep(self, temporary: Path, content: ModelFile) -> ModelVersion:
        folder = self.root / content.digest[:SHORT]
        if not (folder / MODEL).exists():
            os.replace(temporary, folder)
        return ModelVersion(folder, *content)

    def _share(self, version: ModelVersion) -> None:
        """Copy a version to the shared folder, model.json last: a folder with one counts as a version."""
        assert self.shared is not None
        if self.shared.read(f"{version.version}/{MODEL}") is None:
            for name in (*version.files, CARD, MODEL):
                self.shared.put(version.folder / name, f"{version.version}/{name}")
