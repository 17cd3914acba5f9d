"""What an image is without: files that a list names, and symbols of libraries."""

import ctypes
import shutil
from fnmatch import fnmatch
from importlib.metadata import distributions, version
from pathlib import Path

import google_crc32c
import pytest

from image_longitudinal.deployments.slim import LEFT_OUT, has_cuda, leave_out, strip

SOURCES = ("scipy/a.pyx", "scipy/a.pxd")  # some package has them in any environment


def test_each_entry_of_the_list_finds_files_of_the_locked_packages() -> None:
    recorded = {str(file) for one in distributions() for file in one.files or ()}
    installed = {file.partition("/")[0] for file in recorded}
    for entry in LEFT_OUT:
        pattern = entry.pattern.replace("**/", "*/").removesuffix("/")
        found = {file for file in recorded if fnmatch(file, pattern) or fnmatch(file, f"{pattern}/*")}
        if entry.beside_cuda or version("torch").endswith("+cpu"):
            assert found or entry.pattern.partition("/")[0] not in installed, entry.pattern
        assert all(any(f"/{name}" in file for file in found) for name in entry.but), entry.but


def packages(folder: Path, *files: str) -> Path:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000))
    return folder


def test_what_the_list_names_goes_and_its_exceptions_stay(tmp_path: Path) -> None:
    folder = packages(
        tmp_path, "botocore/data/s3/a.json", "botocore/data/ec2/a.json", "botocore/data/endpoints.json",
        "torch/include/a.h", "torch/share/a", "torch/test/a", "torch/bin/torch_shm_manager", "torch/bin/protoc",
        "torch-2.13.0+cpu.dist-info/RECORD", "torch/a.pyi", "torch/testing/_internal/common_methods_invocations.py",
        "torch/testing/_internal/generated/a.py", "torch/_vendor/quack/a.py", *SOURCES,
        "zarr/tests/tests/a.py", "zarr/testing/a.py",
    )  # fmt: skip
    assert not has_cuda(folder)
    freed = {entry.pattern: size for entry, size in leave_out(folder, cuda=False)}
    assert freed["botocore/data/*/"] == freed["torch/bin/*"] == freed["**/tests"] == 1000
    left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert left == {
        "botocore/data/s3/a.json", "botocore/data/endpoints.json", "torch/bin/torch_shm_manager",
        "torch-2.13.0+cpu.dist-info/RECORD", "zarr/testing/a.py",
    }  # fmt: skip


def test_headers_stay_beside_cuda_whose_kernels_are_compiled_on_the_machine(tmp_path: Path) -> None:
    folder = packages(
        tmp_path, "torch/include/a.h", "torch-2.13.0.dist-info/RECORD", "torch/testing/_internal/generated/a.py",
        "torch/testing/_internal/common_methods_invocations.py", *SOURCES, "zarr/tests/a.py",
    )  # fmt: skip
    assert has_cuda(folder)
    assert [entry.pattern for entry, _ in leave_out(folder, cuda=True)] == [
        "**/tests", "**/*.px[di]", "**/*.pyx",
        "torch/testing/_internal/common_methods_invocations.py", "torch/testing/_internal/generated",
    ]  # fmt: skip
    assert (folder / "torch/include/a.h").exists()


def test_an_entry_that_finds_nothing_in_an_installed_package_is_an_error(tmp_path: Path) -> None:
    folder = packages(tmp_path, *SOURCES, "zarr/tests/a.py", "pydicom/__init__.py")
    with pytest.raises(FileNotFoundError, match="pydicom/data/test_files"):
        list(leave_out(folder, cuda=False))


@pytest.mark.skipif(shutil.which("strip") is None, reason="needs binutils")
def test_a_library_without_symbols_is_smaller_and_still_loads(tmp_path: Path) -> None:
    (library,) = Path(google_crc32c.__file__).parent.glob("_crc32c*.so")
    for package in ("google_crc32c", "google_crc32c.libs"):
        (tmp_path / package).mkdir()
        shutil.copy(library, tmp_path / package)
    freed = strip(tmp_path, cuda=False)
    stripped = tmp_path / "google_crc32c" / library.name
    assert freed == library.stat().st_size - stripped.stat().st_size > 0
    assert (tmp_path / "google_crc32c.libs" / library.name).read_bytes() == library.read_bytes()
    assert ctypes.PyDLL(str(stripped))
