"""The package as a user installs it: its files, its base installation beside a user's own packages, its imports."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import image_longitudinal
from image_longitudinal.deployments.lock import LOCK, read_lock
from tests.paths import ROOT

ROOMS = ("core", "models", "storage", "tasks", "flows")
FILES = (
    "py.typed", "deployments/presets/demo.yaml", "models/pretrained/oct-64/vae.safetensors",
    "storage/dataset/reader.py", "tasks/reports/templates/report.html",
)  # fmt: skip
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # what is installed, alone
HEAVY = {"torch", "prefect", "scipy", "matplotlib", "numba", "transformers", "diffusers", "pymc"}


def loaded_by(program: str) -> set[str]:
    """The top-level modules that a new process has loaded after a program."""
    program += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("program", "too_heavy"),
    [
        ("import image_longitudinal", HEAVY | {"numpy", "pydantic", "pyarrow", "zarr"}),
        ("from image_longitudinal import open_dataset", HEAVY),
        ("import image_longitudinal.cli.app", HEAVY | {"numpy", "pyarrow", "zarr"}),
    ],
)
def test_an_import_loads_nothing_heavy(program: str, too_heavy: set[str]) -> None:
    assert not too_heavy & loaded_by(program)


COMMAND = """
import sys
from image_longitudinal.cli.app import main
sys.argv[1:] = {arguments!r}
try:
    main()
except SystemExit as ended:
    print(ended.code)
"""


@pytest.mark.parametrize(
    ("arguments", "too_heavy"),
    [
        ("--help", HEAVY | {"numpy", "pyarrow", "zarr"}),
        ("--version", HEAVY | {"numpy", "pyarrow", "zarr"}),
        ("generate --output x --set dataset.nonsense=1", HEAVY),
        ("generate --output ftp://x --images nowhere --model nonsense", HEAVY),
        ("train --images nowhere", HEAVY),
        ("verify nowhere", HEAVY),
        ("evaluate nowhere", HEAVY),
        ("score nowhere nothing.parquet", HEAVY),
        ("study nowhere", HEAVY),
        ("fit nowhere.csv --output x", HEAVY),
        ("simulate x.csv --model nonsense", HEAVY),
        ("show nowhere", HEAVY),
        ("export nowhere x --to bids", HEAVY),
        ("models list", HEAVY),
    ],
)
def test_what_needs_no_engine_starts_without_one(arguments: str, too_heavy: set[str]) -> None:
    assert not too_heavy & loaded_by(COMMAND.format(arguments=arguments.split()))


def test_every_public_name_is_documented_and_others_are_refused() -> None:
    for name in image_longitudinal.__all__:
        assert getattr(image_longitudinal, name).__doc__, name
    assert set(dir(image_longitudinal)) == set(image_longitudinal.__all__)
    assert not hasattr(image_longitudinal, "no_such_name")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a source distribution of the files that git knows or would know."""
    folder = tmp_path_factory.mktemp("build")
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target, follow_symlinks=False)
    build = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    subprocess.run([sys.executable, "-c", build], cwd=folder / "source", check=True, capture_output=True)
    (source,) = folder.glob("*.tar.gz")
    _pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.service
def test_the_wheel_holds_one_package_with_all_its_rooms(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"image_longitudinal"}
    modules = {str(path.relative_to(ROOT)) for room in (*ROOMS, "deployments") for path in (ROOT / room).rglob("*.py")}
    assert {f"image_longitudinal/{name}" for name in (*FILES, *modules)} <= set(names)


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the wheel and its base dependencies alone, of the versions in the lock file."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    constraints = folder / "versions.txt"  # without hashes: the wheel that was built here has none
    locked = read_lock((ROOT / LOCK).read_text(encoding="utf-8"))
    pins = (f"{one.name}=={one.version}" + (f" ; {one.marker}" if one.marker else "") for one in locked)
    constraints.write_text("\n".join(pins))
    _pip(folder / "bin/python", "install", "--constraint", constraints, wheel)
    return folder / "bin/python"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder: a data set, and packages with the names of our rooms."""
    from image_longitudinal.storage.io.open import open_root
    from tests.storage.conftest import write_dataset

    write_dataset(open_root(tmp_path / "data"))
    for name in ROOMS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('a package of the user')\n")
    return tmp_path


def run(python: Path, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *arguments], cwd=project, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def command(python: Path, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(python, project, "-m", "image_longitudinal.cli.app", *arguments)


@pytest.mark.service
def test_a_base_installation_reads_a_data_set_beside_packages_of_the_same_names(python: Path, project: Path) -> None:
    program = """
import image_longitudinal as il, image_longitudinal.storage.dataset.reader
data = il.open_dataset("data")
print(len(data), data.images[0:4].shape, data.observations(1.0).num_rows, data.view("test", level=1.0).linked_eta.shape)
"""
    read = run(python, project, "-c", program)
    assert read.stdout == "22 (4, 8, 8) 110 (7, 2)\n", read.stderr
    for arguments, expected in (
        (("--help",), "generate"),
        (("show", "data"), "22 subjects"),
        (("verify", "data"), "all as recorded"),
        (("fetch", "data", "copy", "--split", "test"), "7 subjects"),
        (("export", "data", "table.csv", "--level", "1"), "rows"),
        (("export", "data", "hub", "--to", "huggingface"), "22 subjects"),
        (("models", "list"), "no models"),
    ):
        done = command(python, project, *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
        assert expected in done.stdout


@pytest.mark.service
def test_what_needs_an_extra_names_it(python: Path, project: Path) -> None:
    missing = "pip install 'image-longitudinal[pipeline]'"
    (project / "t.csv").touch()
    for arguments in (
        "generate --output x", "generate --output x --dry-run", "evaluate data", "show data --subject 1",
        "fit t.csv --output x",
    ):  # fmt: skip
        done = command(python, project, *arguments.split())
        assert done.returncode == 1, arguments
        assert missing in done.stderr
        assert "Traceback" not in done.stderr
    for name in ("SubjectLoader", "load_model()", "fit('t.csv', 'x')"):
        assert missing in run(python, project, "-c", f"import image_longitudinal as il; il.{name}").stderr


def _pip(python: Path | str, *arguments: object) -> None:
    command = [python, "-m", "pip", "-q", *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
