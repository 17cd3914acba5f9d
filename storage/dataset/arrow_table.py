"""A table in memory: one of pyarrow, with a way to pandas and to polars."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from image_longitudinal.core.errors import naming_missing_extra


@dataclass(frozen=True, eq=False, repr=False)
class ArrowTable:
    """Rows and named columns. Whatever a pyarrow table can do, this can: ``table["dv"]``, ``.filter``, ``.num_rows``.

    Tools that read Arrow data take it as it is (``polars.DataFrame(table)``, ``pyarrow.table(table)``, DuckDB).

    Attributes:
        arrow: the table itself, for functions that accept nothing but a pyarrow table.

    Example:
        >>> data.subjects("test").filter(data.subjects("test")["id"].to_numpy() < 600).num_rows
        24
    """

    arrow: pa.Table

    def to_pandas(self) -> Any:
        """A data frame of pandas."""
        with naming_missing_extra():
            import pandas  # noqa: F401 - pyarrow's own error does not say what to install
        return self.arrow.to_pandas()

    def to_polars(self) -> Any:
        """A data frame of polars."""
        with naming_missing_extra():
            import polars
        return polars.from_arrow(self.arrow)

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    def __getitem__(self, key: Any) -> Any:
        return self.arrow[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.arrow.columns)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.arrow.__arrow_c_stream__(requested_schema)

    def __getattr__(self, name: str) -> Any:
        if name == "arrow" or name.startswith("__"):  # before it is set, such as while unpickling
            raise AttributeError(name)
        return getattr(self.arrow, name)

    def __repr__(self) -> str:
        columns = ", ".join(f"{field.name} {field.type}" for field in self.arrow.schema)
        return f"<{len(self):,} rows: {columns}>"

    def _repr_html_(self) -> str | None:
        try:
            frame = self.arrow.slice(0, 10).to_pandas()
        except ModuleNotFoundError:  # the text of __repr__ is shown in its place
            return None
        return f"<p>{len(self):,} rows, the first of them:</p>{frame.to_html(index=False)}"
