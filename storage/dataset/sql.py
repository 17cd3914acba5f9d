"""SQL over the tables of a data set, by DuckDB: filters and choices of columns reach the files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from image_longitudinal.core.errors import StorageError, naming_missing_extra
from image_longitudinal.storage.dataset.arrow_table import ArrowTable

if TYPE_CHECKING:
    from image_longitudinal.storage.dataset.reader import Dataset


def query(dataset: Dataset, statement: str) -> ArrowTable:
    """The rows of a SELECT statement; see :meth:`storage.dataset.reader.Dataset.sql`."""
    with naming_missing_extra():
        import duckdb
    names = {table.replace("/", "_"): table for table in dataset.manifest.tables}
    with duckdb.connect() as connection:
        for name, table in names.items():
            if re.search(rf"\b{name}\b", statement, re.IGNORECASE):  # others need not be opened
                connection.register(name, dataset.scan(table))
        try:
            rows = connection.sql(statement)
            if rows is None:
                raise StorageError("this statement gives no rows", expected="select ...", got=statement)
            return ArrowTable(rows.to_arrow_table())
        except duckdb.Error as error:
            tables = f"a SELECT from {', '.join(names)}"
            raise StorageError("the query failed", where=dataset.root.url, expected=tables, got=error) from error
