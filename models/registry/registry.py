"""Trained models: immutable versions named by their content, and aliases that point to them.

::

    <root>/<version>/model.json            what it is: architecture, training key, figures; lists the other files
    <root>/<version>/*.safetensors         weights
    <root>/<version>/README.md             model card
    <root>/aliases.json                    {"production": "<version>", "candidate": "<version>"}

The root is a local folder. With a shared store of the same layout, versions registered here are copied there, versions
registered elsewhere are fetched on first use, and the aliases are those of the store.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from image_longitudinal.core.digest import SHORT, digest_of, file_sha256
from image_longitudinal.core.errors import ModelError, StorageError
from image_longitudinal.core.files import move_into_place, temporary_folder, write_atomically
from image_longitudinal.models.registry.store import ModelStore
from image_longitudinal.models.training.tensor_files import load_tensors, save_tensors

MODEL, CARD, ALIASES = "model.json", "README.md", "aliases.json"
WEIGHTS = ".safetensors"  # whatever else a folder holds is neither copied nor opened: no pickle comes in
PRODUCTION, CANDIDATE = "production", "candidate"


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
        path = self.folder / f"{name}{WEIGHTS}"
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
    """The versions in one local folder (created on the first registration), shared or not.

    Args:
        root: the local folder.
        shared: the folder that several machines share; None for the local folder alone.
    """

    def __init__(self, root: str | Path, shared: ModelStore | None = None) -> None:
        self.root, self.shared = Path(root), shared

    def register(
        self, weights: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, Any], card: str
    ) -> ModelVersion:
        """Store a version; registering equal content again returns the existing one.

        Args:
            weights: state by file name (without ``.safetensors``).
            metadata: what :attr:`ModelVersion.metadata` will give back; plain JSON values.
            card: text of the model card.
        """
        with self._new_folder() as temporary:
            for name, tensors in weights.items():
                save_tensors(temporary / f"{name}{WEIGHTS}", dict(tensors))
            files = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
            content: dict[str, Any] = {"format": 1, "files": files, "metadata": dict(metadata)}
            content["digest"] = digest_of(content)
            write_atomically(temporary / MODEL, json.dumps(content, indent=1, sort_keys=True) + "\n")
            write_atomically(temporary / CARD, card)
            version = self._keep(temporary, content)
        if self.shared:
            self._share(version)
        return version

    def add(self, source: ModelStore) -> ModelVersion:
        """Import a version's folder that was exported elsewhere, unchanged: same content, same name.

        Raises:
            ModelError: it is no version's folder, or a file is not what its model.json says.
        """
        version = self._fetch(source, "")
        if self.shared:
            self._share(version)
        return version

    def versions(self) -> list[ModelVersion]:
        """Every undamaged version, by name; :meth:`get` fetches the weights of those that are only shared."""
        return [found for found in self._look().values() if isinstance(found, ModelVersion)]

    def damaged(self) -> dict[str, ModelError]:
        """The error of every damaged version, by name; a damaged version does not hide others."""
        return {name: found for name, found in self._look().items() if isinstance(found, ModelError)}

    def find(self, training_key: str) -> ModelVersion | None:
        """The version whose training had this key (data, configuration and code), if there is one."""
        found = next((v for v in self.versions() if v.content["metadata"].get("training_key") == training_key), None)
        return found and self._here(found)

    def get(self, name: str) -> ModelVersion:
        """A version by its name, a unique beginning of it (six digits at least), or an alias; its files are then here.

        Raises:
            ModelError: there is none, and which there are; or the one that is meant is damaged.
        """
        wanted = self.aliases().get(name, name)
        known = self._look()
        for folder, problem in known.items():
            if isinstance(problem, ModelError) and len(wanted) >= 6 and folder.startswith(wanted[:SHORT]):
                raise problem
        sound = [version for version in known.values() if isinstance(version, ModelVersion)]
        found = [version for version in sound if version.digest.startswith(wanted) and len(wanted) >= 6]
        if len(found) != 1:
            names = [*self.aliases(), *(version.version for version in sound)]
            raise ModelError(
                "no such model",
                where=self.shared.url if self.shared else self.root,
                expected=f"one of {', '.join(names)}" if names else "a registered model, and there is none",
                got=name,
                do="train one with: image-longitudinal train",
            )
        return self._here(found[0])

    def aliases(self) -> dict[str, str]:
        """Version by alias."""
        where = self.shared.join(ALIASES) if self.shared else self.root / ALIASES
        try:
            if self.shared:
                return dict(json.loads(self.shared.read_bytes(ALIASES))) if self.shared.exists(ALIASES) else {}
            return dict(json.loads((self.root / ALIASES).read_bytes()))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ModelError("cannot read the aliases", where=where, got=error) from error
        except (TypeError, ValueError) as error:
            raise ModelError(
                "the aliases file is damaged", where=where, got=error, do="remove it and set the aliases again"
            ) from error

    def set_alias(self, alias: str, version: str) -> None:
        """Let an alias point to an existing version."""
        aliases = {**self.aliases(), alias: self.get(version).version}
        text = json.dumps(aliases, indent=1, sort_keys=True) + "\n"
        if self.shared:
            self.shared.write_bytes(ALIASES, text.encode())
            return
        try:
            write_atomically(self.root / ALIASES, text)
        except OSError as error:
            raise ModelError(
                "cannot write the aliases", where=self.root / ALIASES, got=error, do="free space"
            ) from error

    def _look(self) -> dict[str, ModelVersion | ModelError]:
        """Version, or the error of a damaged one, by folder name: local ones and those that are only shared."""
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
            return ModelVersion(folder, _parsed(read(), folder))
        except ModelError as error:
            return error
        except (OSError, StorageError) as error:
            return ModelError("a registered model cannot be read", where=folder, got=error)

    def _here(self, version: ModelVersion) -> ModelVersion:
        """The version with its files on this machine."""
        if self.shared and not version.folder.exists():
            return self._fetch(self.shared, f"{version.version}/")
        return version

    def _fetch(self, source: ModelStore, prefix: str) -> ModelVersion:
        """Copy the version whose files begin with ``prefix`` in a store, checking every digest."""
        if not source.exists(prefix + MODEL):
            raise ModelError(
                "no model here", where=source.url, expected=f"a folder with {MODEL}",
                do="name a folder that image-longitudinal models export has written",
            )  # fmt: skip
        text = source.read_bytes(prefix + MODEL)
        content = _parsed(text, source.url)
        with self._new_folder() as temporary:
            write_atomically(temporary / MODEL, text)
            for name, expected in content["files"].items():
                where, do = source.join(prefix + name), "export or copy the version again"
                if not source.exists(prefix + name):
                    raise ModelError("a file of the model is missing", where=where, do=do)
                write_atomically(temporary / name, source.blocks(prefix + name))
                if file_sha256(temporary / name) != expected:
                    raise ModelError("a model file was altered", where=where, expected=f"sha256 {expected}", do=do)
            card = source.read_bytes(prefix + CARD) if source.exists(prefix + CARD) else b""
            write_atomically(temporary / CARD, card)
            return self._keep(temporary, content)

    @contextlib.contextmanager
    def _new_folder(self) -> Iterator[Path]:
        """A hidden folder to fill; removed afterwards unless it was renamed."""
        try:
            with temporary_folder(self.root / "version") as temporary:
                yield temporary
        except OSError as error:
            raise ModelError("cannot register the model", where=self.root, got=error, do="free space") from error

    def _keep(self, temporary: Path, content: dict[str, Any]) -> ModelVersion:
        folder = self.root / content["digest"][:SHORT]
        if not (folder / MODEL).exists():
            move_into_place(temporary, folder)
        return ModelVersion(folder, content)

    def _share(self, version: ModelVersion) -> None:
        """Copy a version to the shared store: model.json last, because it makes the folder a version."""
        assert self.shared is not None
        if not self.shared.exists(f"{version.version}/{MODEL}"):
            for name in (*version.content["files"], CARD, MODEL):
                self.shared.put_file(version.folder / name, f"{version.version}/{name}")


def _parsed(text: bytes, where: object) -> dict[str, Any]:
    """The content of a model.json, checked against the digest in it."""
    try:
        content = json.loads(text)
        recorded = content.pop("digest")
        names = [str(name) for name in content["files"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            "a registered model is damaged", where=where, got=error, do="remove this folder and train again"
        ) from error
    if foreign := [name for name in names if Path(name).name != name or not name.endswith(WEIGHTS)]:
        raise ModelError(
            "a registered model names files that no model has", where=where, expected=f"names that end in {WEIGHTS}",
            got=", ".join(foreign), do="take it from its source again; nothing of it was loaded",
        )  # fmt: skip
    if digest_of(content) != recorded:
        raise ModelError(
            "a registered model was altered",
            where=where,
            expected=f"digest {recorded}",
            do="remove this folder and train again",
        )
    return {**content, "digest": recorded}
