"""Trained models: immutable versions named by their content, and aliases that point to them.

::

    <root>/<version>/model.json            networks, training key, figures, SHA-256 of the weights (metadata.py)
    <root>/<version>/*.safetensors         weights
    <root>/<version>/README.md             model card
    <root>/<version>/gates.json            what was wanted of it, found and accepted (gates.py)
    <root>/aliases.json                    {"production": "<version>", "candidate": "<version>"}

The root is a local folder. With a shared store of the same layout, versions registered here are copied there, versions
registered elsewhere are fetched on first use, and the aliases are those of the store.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from image_longitudinal.core.digest import SHORT, file_sha256, file_sha256_once
from image_longitudinal.core.errors import ModelError, StorageError, did_you_mean, writing_advice
from image_longitudinal.core.files import move_into_place, temporary_folder, write_atomically
from image_longitudinal.core.gates import Gate
from image_longitudinal.core.json_input import parse_json
from image_longitudinal.models.registry.gates import GATES, gates_document, read_gates
from image_longitudinal.models.registry.metadata import (
    WEIGHTS,
    ModelFile,
    ModelMetadata,
    read_model_file,
    write_model_file,
)
from image_longitudinal.models.registry.real_scans import holds_real_scans, may_hold_real_scans

if TYPE_CHECKING:  # takes a second, which a look at the registry does not need
    from torch import Tensor

MODEL, CARD, ALIASES = "model.json", "README.md", "aliases.json"
PRODUCTION, CANDIDATE = "production", "candidate"


class ModelStore(Protocol):
    """An opened folder, local or remote; paths are relative to it, with forward slashes. Writes are atomic.

    The caller opens it (:func:`storage.io.open.open_root`): the models do not know how files are stored.
    """

    url: str

    def join(self, path: str) -> str:
        """The address of ``path``, for messages."""

    def exists(self, path: str) -> bool:
        """Whether ``path`` is a file."""

    def files(self) -> list[str]:
        """Paths of all files, sorted."""

    def read_bytes(self, path: str) -> bytes:
        """The whole of ``path``."""

    def blocks(self, path: str) -> Iterator[bytes]:
        """The bytes of ``path`` in pieces of a few MiB."""

    def write_bytes(self, path: str, data: bytes) -> object:
        """Write ``data`` as the whole of ``path``."""

    def put_file(self, source: Path, path: str) -> object:
        """Copy a local file to ``path``."""


@dataclass(frozen=True)
class ModelVersion:
    """One registered version: its folder and the content of its model.json."""

    folder: Path
    digest: str  # 64 hex digits over weights, configuration and figures
    files: dict[str, str]  # SHA-256 by name of weights file
    metadata: ModelMetadata

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The version in a folder; ModelError if its model.json is damaged."""
        try:
            return cls(folder, *read_model_file((folder / MODEL).read_bytes(), folder))
        except OSError as error:
            raise ModelError("a registered model cannot be read", where=folder, got=error) from error

    @property
    def version(self) -> str:
        """The first twelve hex digits of the digest, for command lines."""
        return self.digest[:SHORT]

    @property
    def card(self) -> str:
        """The text of the model card."""
        path = self.folder / CARD
        return (
            path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        )  # text for people: not checked

    @property
    def gates(self) -> tuple[Gate, ...]:
        """The gates that were recorded, see :func:`models.registry.gates.read_gates`."""
        return read_gates(self.folder)

    def is_intact(self) -> bool:
        """Whether all weights are as registered; large files are read once per process.

        Pictures of real scans may be missing: they stay where the model was made.
        """
        try:
            return all(file_sha256_once(self.folder / file) == self.files[file] for file in self._present)
        except OSError:
            return False

    @property
    def networks(self) -> list[str]:
        """Names of the groups of weights, without pictures of real scans that this copy lacks."""
        return [file.removesuffix(WEIGHTS) for file in self._present]

    @property
    def _present(self) -> list[str]:
        """All files, those of weights also if they are lost, pictures of real scans only where they are."""
        return [
            file for file in self.files if not may_hold_real_scans(self.metadata, file) or (self.folder / file).exists()
        ]

    def all_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Every group of weights of this copy by name; see :meth:`tensors`."""
        return {name: self.tensors(name) for name in self.networks}

    def has(self, name: str) -> bool:
        """Whether this copy has the file ``name``; pictures of real scans may be missing."""
        return (self.folder / f"{name}{WEIGHTS}").exists()

    @property
    def public_files(self) -> list[str]:
        """The files of this copy that may leave the workspace."""
        private = self.private_files
        return [file for file in self.files if file not in private and (self.folder / file).exists()]

    @property
    def private_files(self) -> list[str]:
        """The files of this copy that hold pictures of real scans."""
        return [file for file in self.files if holds_real_scans(self.metadata, self.folder / file)]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The weights called ``name``, checked against the SHA-256 recorded at registration.

        Raises:
            ModelError: they are missing, or differ from those that were registered.
        """
        path = self.folder / f"{name}{WEIGHTS}"
        expected = self.files.get(path.name)
        if path.exists() and file_sha256_once(path) != expected:
            raise ModelError(
                "registered weights were altered", where=path, expected=f"sha256 {expected}",
                do="run the command that trained this model again, which registers it anew, or import it again",
            )  # fmt: skip
        from image_longitudinal.models.training.tensor_files import load_tensors

        return load_tensors(path)[0]


def open_version(folder: Path) -> ModelVersion:
    """The version in a folder, wherever that is; its weights are checked when they are read.

    Raises:
        ModelError: it has no ``model.json``, or a damaged one.
    """
    try:
        return ModelVersion(folder, *read_model_file((folder / MODEL).read_bytes(), folder))
    except OSError as error:
        raise ModelError("a registered model cannot be read", where=folder, got=error) from error


class Registry:
    """The versions in one local folder, created on the first registration, and in the folder that machines share."""

    def __init__(self, root: str | Path, shared: ModelStore | None = None) -> None:
        self.root, self.shared = Path(root), shared

    def register(self, weights: Mapping[str, Mapping[str, Tensor]], metadata: ModelMetadata, card: str) -> ModelVersion:
        """Store a version: weights by file name (without ``.safetensors``), metadata, and the text of the model card.

        Registering equal content again returns the existing version.
        """
        from image_longitudinal.models.training.tensor_files import save_tensors

        with self._new_folder() as temporary:
            for name, tensors in weights.items():
                save_tensors(temporary / f"{name}{WEIGHTS}", dict(tensors))
            files = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
            text, content = write_model_file(files, metadata)
            write_atomically(temporary / MODEL, text)
            write_atomically(temporary / CARD, card)
            return self._keep(temporary, content)

    def record_gates(self, version: ModelVersion, gates: Sequence[Gate], card: str | None = None) -> None:
        """Record what was found at the gates of a version, and replace its card by one that says so, if given."""
        documents = {GATES: gates_document(gates)} | ({} if card is None else {CARD: card})
        for name, text in documents.items():
            try:
                write_atomically(version.folder / name, text)
            except OSError as error:
                raise ModelError("cannot record the gates", where=version.folder, got=error, do="free space") from error
            if self.shared:
                self.shared.write_bytes(f"{version.version}/{name}", text.encode())

    def add(self, source: ModelStore) -> ModelVersion:
        """Import a version's folder that was exported elsewhere, unchanged: same content, same name.

        Raises:
            ModelError: it is no version's folder, or a file differs from its recorded SHA-256.
        """
        return self._fetch(source, "")

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
            expected = f"one of {', '.join(names)}" if names else "a registered model; this registry is empty"
            raise ModelError(
                "no such model", where=self.shared.url if self.shared else self.root, expected=expected, got=name,
                do=did_you_mean(name, names) or "train one with: image-longitudinal train",
            )  # fmt: skip
        return self._fetched(found[0])

    def aliases(self) -> dict[str, str]:
        """Version by alias."""
        where = self.shared.join(ALIASES) if self.shared else self.root / ALIASES
        try:
            if self.shared:
                return dict(parse_json(self.shared.read_bytes(ALIASES))) if self.shared.exists(ALIASES) else {}
            return dict(parse_json((self.root / ALIASES).read_bytes()))
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
            self.shared.write_bytes(ALIASES, text.encode())
            return
        try:
            write_atomically(self.root / ALIASES, text)
        except OSError as error:
            where = self.root / ALIASES
            raise ModelError("cannot write the aliases", where=where, got=error, do=writing_advice(error)) from error

    def _scan(self) -> dict[str, ModelVersion | ModelError]:
        """Version or error by folder name, for local folders and for those that are only shared."""
        found: dict[str, ModelVersion | ModelError] = {}
        # A registration that was killed may have left its hidden temporary folder.
        for file in sorted(self.root.glob(f"[!.]*/{MODEL}")):
            found[file.parent.name] = self._open(file.parent, file.read_bytes)
        for path in self.shared.files() if self.shared else ():
            name, _, rest = path.partition("/")
            if self.shared and rest == MODEL and name not in found and not name.startswith("."):
                found[name] = self._open(self.root / name, partial(self.shared.read_bytes, path))
        return dict(sorted(found.items()))

    def _open(self, folder: Path, read: Callable[[], bytes]) -> ModelVersion | ModelError:
        try:
            return ModelVersion(folder, *read_model_file(read(), folder))
        except ModelError as error:
            return error
        except (OSError, StorageError) as error:
            return ModelError("a registered model cannot be read", where=folder, got=error)

    def _fetched(self, version: ModelVersion) -> ModelVersion:
        """The version with its files on this machine."""
        if self.shared and not version.is_intact():
            return self._fetch(self.shared, f"{version.version}/")
        return version

    def _fetch(self, source: ModelStore, prefix: str) -> ModelVersion:
        """Copy the version whose files begin with ``prefix`` in a store, checking every digest."""
        if not source.exists(prefix + MODEL):
            raise ModelError(
                "no model here", where=source.url, expected=f"a folder with {MODEL}",
                do="name a folder that image-longitudinal models export has written",
            )  # fmt: skip
        content = read_model_file(text := source.read_bytes(prefix + MODEL), source.url)
        with self._new_folder() as temporary:
            write_atomically(temporary / MODEL, text)
            for name, expected in content.files.items():
                where, do = source.join(prefix + name), "export or copy the version again"
                if not source.exists(prefix + name):
                    if may_hold_real_scans(content.metadata, name):
                        continue
                    raise ModelError("a file of the model is missing", where=where, do=do)
                write_atomically(temporary / name, source.blocks(prefix + name))
                if file_sha256(temporary / name) != expected:
                    raise ModelError("a model file was altered", where=where, expected=f"sha256 {expected}", do=do)
            card = source.read_bytes(prefix + CARD) if source.exists(prefix + CARD) else b""
            write_atomically(temporary / CARD, card)
            if source.exists(prefix + GATES):
                write_atomically(temporary / GATES, source.read_bytes(prefix + GATES))
                read_gates(temporary)  # a damaged record is refused here, not where it is used
            return self._keep(temporary, content)

    @contextlib.contextmanager
    def _new_folder(self) -> Iterator[Path]:
        """A hidden folder to fill; removed afterwards unless it was renamed."""
        try:
            with temporary_folder(self.root / "version") as temporary:
                yield temporary
        except OSError as error:
            do = writing_advice(error)
            raise ModelError("cannot register the model", where=self.root, got=error, do=do) from error

    def _keep(self, temporary: Path, content: ModelFile) -> ModelVersion:
        """Give a complete folder its name, in the place of a damaged one, and copy it to the shared store unless that
        has it.
        """
        version = ModelVersion(self.root / content.digest[:SHORT], *content)
        if self._open(version.folder, (version.folder / MODEL).read_bytes) != version or not version.is_intact():
            shutil.rmtree(version.folder, ignore_errors=True)
            move_into_place(temporary, version.folder)
        if self.shared and not self.shared.exists(f"{version.version}/{MODEL}"):
            gates = [GATES] if (version.folder / GATES).exists() else []
            for name in (*version.public_files, CARD, *gates, MODEL):  # model.json last: it makes the folder a version
                self.shared.put_file(version.folder / name, f"{version.version}/{name}")
        return version
