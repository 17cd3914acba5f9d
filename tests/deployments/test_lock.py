"""The lock file: it belongs to pyproject.toml, every file in it has a hash, and make installs nothing else."""

import re

import pytest

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.deployments.lock import (
    BUILD_LOCK,
    CUDA_LOCK,
    DOCS_LOCK,
    LOCK,
    PROJECT,
    docs_requirements,
    locked_text,
    problems,
    read_lock,
)
from tests.paths import ROOT

PROJECT_TEXT, LOCK_TEXT = (ROOT / PROJECT).read_text(encoding="utf-8"), locked_text()
CPU_BUILD = "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"  # torch 2.13.0+cpu, Linux, Python 3.11


def test_the_lock_file_belongs_to_the_project() -> None:
    assert list(problems(PROJECT_TEXT, LOCK_TEXT)) == []


def test_the_documentation_is_locked_beside_the_rest() -> None:
    assert list(problems(PROJECT_TEXT, locked_text(LOCK, DOCS_LOCK), docs_requirements)) == []
    main = {one.name for one in read_lock(LOCK_TEXT)}
    assert not main & {one.name for one in read_lock(locked_text(DOCS_LOCK))}, "one version of a package, in one file"
    without = locked_text(LOCK, DOCS_LOCK).replace("furo==", "faro==")
    assert any("furo is not locked" in one for one in problems(PROJECT_TEXT, without, docs_requirements))


def test_every_package_of_all_files_has_hashes_and_torch_that_of_its_cpu_build() -> None:
    for name in (LOCK, BUILD_LOCK, CUDA_LOCK, DOCS_LOCK):
        locked = read_lock((ROOT / name).read_text(encoding="utf-8"))
        assert locked
        assert all(one.hashes for one in locked)
    (torch,) = [one for one in read_lock(LOCK_TEXT) if one.name == "torch"]
    assert CPU_BUILD in torch.hashes
    main = read_lock((ROOT / LOCK).read_text(encoding="utf-8"))
    assert not any(one.name.startswith("nvidia-") for one in main), "the CPU build needs none"


@pytest.mark.parametrize(
    ("project", "lock", "problem"),
    [
        (("numpy>=2.0", "numpy>=99"), ("", ""), "numpy>=99 is locked at"),
        (("numpy>=2.0", "no-such-package>=1"), ("", ""), "no-such-package is not locked"),
        (("numpy>=2.0", "numpy>=1.0"), ("", ""), "the dependencies changed since it was written"),
        (("", ""), (r"(zarr==\S+) \\\n(    --hash=\S+( \\)?\n)+", r"\1\n"), "without hashes: zarr"),
    ],
    ids=range(4),
)
def test_what_does_not_belong_together_is_named(project: tuple[str, str], lock: tuple[str, str], problem: str) -> None:
    changed = PROJECT_TEXT.replace(*project) if project[0] else PROJECT_TEXT
    relocked = re.sub(lock[0], lock[1], LOCK_TEXT, count=1) if lock[0] else LOCK_TEXT
    assert (changed, relocked) != (PROJECT_TEXT, LOCK_TEXT)
    assert any(problem in found for found in problems(changed, relocked))


def test_a_line_that_pins_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="pins no version"):
        read_lock("numpy>=2\n")


def test_make_installs_what_is_locked_and_the_project() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("$(READY): ")[1].split("touch")[0]
    installs = [line.strip() for line in recipe.splitlines() if re.search(r"pip install|\(INSTALL\)|\(LOCKED\)", line)]
    assert [line.rpartition(" ")[2] for line in installs] == [BUILD_LOCK, LOCK, CUDA_LOCK, "."]
    assert all("$(LOCKED)" in line for line in installs[:3])
    assert re.search(r"^LOCKED .*\(INSTALL\) --require-hashes --only-binary :all:", makefile, re.M)
    assert re.search(r"^INSTALL .*--no-deps --no-build-isolation", makefile, re.M)
