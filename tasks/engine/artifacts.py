"""Artifacts that are updated in place while work goes on: one row of Prefect's database each, however long it takes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate


class LiveArtifact:
    """An artifact under ``key`` that shows the latest text (markdown) or the latest rows (a table)."""

    def __init__(self, key: str, description: str) -> None:
        self.key, self.description = key, description
        self._id: UUID | None = None

    def show(self, content: str | Sequence[Mapping[str, Any]]) -> None:
        """Replace the content; text the first time means text from then on, and likewise rows."""
        data: Any = content if isinstance(content, str) else [dict(row) for row in content]
        if self._id is None:
            create = create_markdown_artifact if isinstance(content, str) else create_table_artifact
            self._id = cast(UUID, create(data, key=self.key, description=self.description))
            return
        with get_client(sync_client=True) as client:
            update = ArtifactUpdate(data=data if isinstance(data, str) else json.dumps(data))
            client.update_artifact(self._id, update)
