"""Layout version 1, which is still read: how the tables of a data set differed from version 2.

Version 1 named its folders ``split=train`` and ``association=0.5`` and its files ``part-00000.parquet``; its random
effects had no ``association`` and ``split`` columns. Arrays and manifests are those of version 2.
:mod:`storage.dataset.conversion` rewrites such a data set.
"""

import pyarrow as pa

from image_longitudinal.storage.dataset.layout import TABLES


def stored_path(path: str) -> str:
    """Where version 1 keeps the file that version 2 keeps at ``path``."""
    if not path.startswith(tuple(f"{table}/" for table in TABLES)):
        return path
    table, *level, split, name = path.split("/")
    folders = [f"association={folder.removeprefix('rho2-')}" for folder in level]
    return "/".join([table, *folders, f"split={split}", f"part-{name}"])


def stored_schema(table: str, schema: pa.Schema) -> pa.Schema:
    """The columns that version 1 has of a version 2 table."""
    missing = ("association", "split") if table == "random_effects" else ()
    return pa.schema([field for field in schema if field.name not in missing], schema.metadata)
