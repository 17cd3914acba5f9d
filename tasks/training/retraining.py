"""What scheduled retraining records of a folder of scans: files seen before, and patients held out for good.

Two models are comparable only on the same patients, seen by neither in training. So the patients held out when a folder
is first trained on stay held out; patients added later are trained on, later scans of a held-out patient are set aside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect.artifacts import create_table_artifact
from prefect.events import emit_event

from image_longitudinal.core.digest import SHORT, digest_of, sealed_json, unsealed_json
from image_longitudinal.core.errors import DamagedError
from image_longitudinal.models.registry.promotion import DIRECTION, IN_FEATURES, compare, same_features
from image_longitudinal.models.registry.registry import PRODUCTION, ModelVersion, Registry
from image_longitudinal.storage.io.local import LocalRoot
from image_longitudinal.storage.scans.prepared import PreparedImages, open_prepared
from image_longitudinal.storage.scans.scan_files import ScanFile
from image_longitudinal.tasks.workspace import Workspace

# Events that deployments/automations.yaml and deployments/alerts.py listen for.
PROMOTED, REFUSED = "image-longitudinal.model.promoted", "image-longitudinal.model.refused"


@dataclass(frozen=True)
class FolderRecord:
    """The record of a folder of scans: file names ``seen`` before, and the split of each held-out file."""

    path: Path
    seen: frozenset[str] = frozenset()
    held_out: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, workspace: Workspace, source: str) -> FolderRecord:
        """The record of earlier runs; the first time, of production's training if it used this folder.

        Raises:
            DamagedError: the record is damaged.
        """
        path = workspace.root / "retraining" / f"{digest_of(source)[:SHORT]}.json"
        try:
            known = unsealed_json(path.read_bytes())
            return cls(path, frozenset(known["seen"]), dict(known["held_out"]))
        except FileNotFoundError:
            images = _of_production(workspace, Path(source).name)
            return cls(path).after(images, ()) if images else cls(path)
        except (KeyError, TypeError, ValueError) as error:
            message = "the record of a folder of scans is damaged"
            do = "remove it: the patients held out are then those of the production model's training"
            raise DamagedError(message, where=path, got=error, do=do) from error

    def after(self, images: PreparedImages, scans: Iterable[ScanFile]) -> FolderRecord:
        """The record after a model was trained on ``images``, prepared from ``scans``."""
        records = images.manifest.images
        names = {record.file for record in records} | {scan.name for scan in scans}
        names |= {item.file for item in images.manifest.set_aside}
        held_out = {record.file: record.split for record in records if record.split != "train"}
        return FolderRecord(self.path, self.seen | names, self.held_out or held_out)

    def save(self) -> None:
        """Store it for the next run."""
        content = {"seen": sorted(self.seen), "held_out": dict(sorted(self.held_out.items()))}
        LocalRoot(self.path.parent).write_bytes(self.path.name, sealed_json(content).encode())


def production_of(registry: Registry) -> ModelVersion | None:
    """The production model, if there is one."""
    return registry.get(PRODUCTION) if PRODUCTION in registry.aliases() else None


def show_comparison(candidate: ModelVersion, production: ModelVersion | None, promoted: bool) -> None:
    """Show the comparison in the UI, whatever its outcome."""
    verdict = f"{candidate.version} {'is production now' if promoted else 'stays a candidate'}"
    if production is None:
        table: list[dict[str, Any]] = [{"metric": "none compared", "why": "there was no production model"}]
    elif candidate.metadata.measured.held_out != production.metadata.measured.held_out:
        table = [{"metric": "none compared", "why": "measured on different held-out patients"}]
    else:
        both = candidate.metadata.metrics.keys() & production.metadata.metrics.keys()
        if not same_features(candidate, production):
            both -= IN_FEATURES
        table = [
            {
                "metric": one.metric,
                "candidate": round(one.candidate, 5),
                "production": round(one.production, 5),
                "better is": "higher" if DIRECTION[one.metric] > 0 else "lower",
                "no worse": one.no_worse,
            }
            for one in compare(candidate, production, [name for name in DIRECTION if name in both])
        ]
    if production is not None:
        verdict += f"; before, {production.version} was" if promoted else f"; production is {production.version}"
    create_table_artifact(table, key="model-comparison", description=verdict)


def announce(version: ModelVersion, workspace: Workspace, promoted: bool) -> None:
    """Emit the event of a promotion, or of a model that stays a candidate: automations can wait for it."""
    name = version.version
    resource = {"prefect.resource.id": f"image-longitudinal.model.{name}", "prefect.resource.name": f"model {name}"}
    payload = {"version": name, "workspace": str(workspace.root), "metrics": version.metadata.metrics}
    emit_event(PROMOTED if promoted else REFUSED, resource=resource, payload=payload)


def _of_production(workspace: Workspace, folder: str) -> PreparedImages | None:
    """The prepared images that production was trained on, if from a folder of this name and in this workspace."""
    production = production_of(workspace.registry)
    if production is None or production.metadata.images.folder != folder:
        return None
    for path in sorted((workspace.root / "images").glob("*/manifest.json")):
        with contextlib.suppress(DamagedError):  # it is made anew when it is needed
            if (images := open_prepared(path.parent)).digest == production.metadata.images.digest:
                return images
    return None
