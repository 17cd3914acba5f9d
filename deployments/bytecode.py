"""Compile the modules that this project's commands import, and no others: most of what pip would compile is not loaded.

Run in an image's environment, from the project's folder: ``python -m image_longitudinal.deployments.bytecode``. Python
keeps the byte code of each module that it imports. A module without it works too; each process compiles it again, as it
does the modules of ``RARE``.
"""

import ast
import compileall
import importlib
import importlib.util
import py_compile
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

OWN = "image_longitudinal"
ROOMS = (OWN, "core", "deployments", "flows", "models", "storage", "tasks")

# Processes of the server, of workers and of runs load modules of these packages by name.
WHOLE = ("prefect", "alembic", "aiosqlite", "asyncpg", "uvicorn")
BY_NAME = (("sqlalchemy.dialects.postgresql.asyncpg", ""), ("sqlalchemy.dialects.sqlite.aiosqlite", ""))

# What only commands of minutes import (fits by NUTS, evaluations of studies), or one of many sources of scans: with
# their byte code, 22 MB, such a command would start about a second earlier.
RARE = ("arviz", "nibabel", "pydicom", "pymc", "pytensor", "sklearn", "xarray")


class Imports(ast.NodeVisitor):
    """Collects what modules import, wherever the statement stands, but for what is for type checkers alone."""

    def __init__(self) -> None:
        self.found: set[tuple[str, str]] = set()  # module, and a name in it or ""

    def visit_If(self, node: ast.If) -> None:
        """Skip what stands below ``if TYPE_CHECKING``."""
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        """``import x.y``."""
        self.found |= {(one.name, "") for one in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """``from x import y``."""
        if node.module and not node.level:
            self.found |= {(node.module, one.name) for one in node.names}


def imports_of_others(sources: Iterable[str]) -> list[tuple[str, str]]:
    """What the texts of modules import from packages of others: module, and a name in it or \"\"."""
    visitor = Imports()
    for source in sources:
        visitor.visit(ast.parse(source))
    return sorted(one for one in visitor.found if one[0].partition(".")[0] != OWN)


def import_all(wanted: Iterable[tuple[str, str]]) -> list[str]:
    """Import modules, also by the names that packages import lazily; gives the packages that are not installed.

    Raises:
        ImportError: an installed package is damaged.
    """
    missing = set()
    for module, name in wanted:
        try:
            found = importlib.import_module(module)
            if name and not hasattr(found, name):
                importlib.import_module(f"{module}.{name}")
        except ModuleNotFoundError as error:  # of an extra that this environment is without
            if error.name is None or error.name.partition(".")[0] in sys.modules:
                raise
            missing.add(error.name)
    return sorted(missing)


def forget(packages: Iterable[str]) -> None:
    """Delete the byte code of these packages, where they are installed."""
    for package in packages:
        found = importlib.util.find_spec(package)
        for folder in (found and found.submodule_search_locations) or ():
            for cache in list(Path(folder).rglob("__pycache__")):
                shutil.rmtree(cache)


if __name__ == "__main__":
    sys.dont_write_bytecode = False
    files = [path for room in ROOMS for path in sorted(Path(room).rglob("*.py"))]
    for file in files:
        py_compile.compile(str(file), doraise=True)
    for package in WHOLE:
        found = importlib.util.find_spec(package)
        for folder in (found and found.submodule_search_locations) or ():
            compileall.compile_dir(folder, quiet=1)
    missing = import_all([*imports_of_others(file.read_text(encoding="utf-8") for file in files), *BY_NAME])
    print("not installed:", ", ".join(missing) or "nothing")
    forget(RARE)
