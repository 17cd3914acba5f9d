"""What every benchmark shares: its command line, the description of the machine, and the RESULT line."""

import argparse
import json
import os
import platform
from importlib.metadata import version
from typing import Any


def argument_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with ``--quick`` that shows the benchmark's docstring as its help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller, in about a minute")
    return parser


def print_result(packages: tuple[str, ...], figures: dict[str, Any]) -> None:
    """Print the RESULT line: machine, versions of this project and ``packages``, and the figures."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    versions = {name: version(name) for name in ("image-longitudinal", *packages)}
    print("RESULT", json.dumps({"machine": machine, "versions": versions, **figures}))
