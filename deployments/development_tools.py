"""Print the installed packages that the project needs for development alone, one a line: an image leaves them out.

Run as a script, before the project is installed: ``python deployments/development_tools.py pyproject.toml``. With
``--extras s3 hub``, or no name behind it, also those that only other extras need.
"""

import argparse
import tomllib
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

BUILD = {"pip", "setuptools"}  # install the project itself


def needed(requirements: Iterable[str]) -> set[str]:
    """The names of all installed packages that these requirements lead to."""
    found: set[tuple[str, str]] = set()  # with an extra, or without
    waiting = [Requirement(one) for one in requirements]
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        for extra in ("", *one.extras):
            if (name, extra) in found:
                continue
            found.add((name, extra))
            try:
                listed = [Requirement(text) for text in requires(name) or []]
            except PackageNotFoundError:  # of an extra that is not locked, or for another system
                continue
            waiting += [r for r in listed if r.marker is None or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def development_only(project: str, extras: Sequence[str] | None = None) -> list[str]:
    """The installed packages that a pyproject.toml, without its development group, does not lead to.

    ``extras``: those that count; None for all.
    """
    content = tomllib.loads(project)["project"]
    optional = content["optional-dependencies"]
    wanted = [
        *content["dependencies"],
        *(one for extra in (optional if extras is None else extras) for one in optional[extra]),
    ]
    installed = {canonicalize_name(one.metadata["Name"]) for one in distributions()}
    return sorted(installed - needed(wanted) - BUILD - {canonicalize_name(content["name"])})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("--extras", nargs="*")
    given = parser.parse_args()
    print("\n".join(development_only(given.project.read_text(encoding="utf-8"), given.extras)))
