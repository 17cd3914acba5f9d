"""Artifacts that are updated in place while work goes on: one row of Prefect's database each, however long it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate


class LiveMarkdown:
    """A markdown artifact under ``key``; the latest text is what it shows."""

    def __init__(self, key: str, description: str) -> None:
        self.key, self.description = key, description
        self.artifact: UUID | None = None

    def show(self, text: str) -> None:
        """Show this text from now on."""
        if self.artifact is None:
            self.artifact = cast(UUID, create_markdown_artifact(text, key=self.key, description=self.description))
        else:
            _update(self.artifact, text)


class LiveTable:
    """A table artifact under ``key``; the latest rows are what it shows."""

    def __init__(self, key: str, description: str) -> None:
        self.key, self.description = key, description
        self.artifact: UUID | None = None

    def show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show these rows from now on."""
        table = [dict(row) for row in rows]
        if self.artifact is None:
            self.artifact = cast(UUID, create_table_artifact(table, key=self.key, description=self.description))
        else:
            _update(self.artifact, json.dumps(table))


def _update(artifact: UUID, data: str) -> None:
    with get_client(sync_client=True) as client:
        client.update_artifact(artifact, ArtifactUpdate(data=data))
