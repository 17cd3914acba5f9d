"""Take out of an image's environment what no run loads: files by the list below, and symbols that only debuggers read.

Run as a script, before the project is installed: ``python deployments/slim.py FOLDER``, the folder site-packages. It
needs ``strip`` of binutils. An entry that finds nothing in an installed package is an error: a newer has other files.
"""

import argparse
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# transformers' networks that take an image and may be a judge; ``auto`` finds them by their names.
IMAGE_NETWORKS = (
    "aimv2", "auto", "beit", "bit", "blip", "blip_2", "chinese_clip", "clip", "convnext", "convnextv2", "cvt",
    "data2vec", "deit", "dinat", "dinov2", "dinov2_with_registers", "dinov3_convnext", "dinov3_vit", "efficientnet",
    "encoder_decoder", "flava", "focalnet", "hgnet_v2", "hiera", "ijepa", "imagegpt", "levit", "metaclip_2", "mlcd",
    "mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2", "perceiver", "pixio", "poolformer", "pvt", "pvt_v2",
    "radio", "regnet", "resnet", "segformer", "siglip", "siglip2", "swiftformer", "swin", "swin2sr", "swinv2",
    "textnet", "timm_backbone", "timm_wrapper", "tipsv2", "vit", "vit_mae", "vit_msn", "vitdet", "yolos",
)  # fmt: skip


class LeftOut(NamedTuple):
    """Files or folders that match a pattern below site-packages, but for those of the given names."""

    pattern: str
    why: str
    but: tuple[str, ...] = ()
    beside_cuda: bool = True  # also where torch compiles kernels on the machine itself


LEFT_OUT = (
    LeftOut("**/tests", "tests of packages"),
    LeftOut("**/*.px[di]", "sources of what is compiled"),
    LeftOut("**/*.pyx", "sources of what is compiled"),
    LeftOut("numpy/**/*.pyi", "types, for checkers"),
    LeftOut("matplotlib/**/*.pyi", "types, for checkers"),
    LeftOut("torch/**/*.pyi", "types, for checkers", beside_cuda=False),
    LeftOut("torch/include", "headers for C++ programs", beside_cuda=False),
    LeftOut("torch/share", "CMake files for C++ programs", beside_cuda=False),
    LeftOut("torch/test", "test programs", beside_cuda=False),
    LeftOut("torch/testing/_internal/common_methods_invocations.py", "samples for tests of its operators"),
    LeftOut("torch/testing/_internal/generated", "more of them"),
    LeftOut("torch/_vendor/quack", "kernels for GPUs", beside_cuda=False),
    LeftOut("torch/bin/*", "programs but the one that shares memory", ("torch_shm_manager",), beside_cuda=False),
    LeftOut("pyarrow/include", "headers for C++ programs"),
    LeftOut("pyarrow/src", "sources of what is compiled"),
    LeftOut("pyarrow/libarrow_python*.so", "a second copy of a library, under the name that linkers look for"),
    LeftOut("pyarrow/libarrow_python*.so.*.*", "a third copy"),
    LeftOut("pyarrow/*_flight*", "tables from a server of the protocol Flight"),
    LeftOut("pyarrow/*_s3*", "its own way to object stores; addresses s3:// are opened by s3fs"),
    LeftOut("pyarrow/_pyarrow_cpp_tests*", "tests"),
    LeftOut(
        "botocore/data/*/",
        "descriptions of services other than the object store and those that give its credentials",
        ("s3", "signin", "sso", "sso-oidc", "sts"),
    ),
    LeftOut("transformers/models/*/", "networks of text, sound and video; judges are those of images", IMAGE_NETWORKS),
    LeftOut("diffusers/pipelines/*/", "ready-made generators; models here use its networks and noise schedules alone"),
    LeftOut("diffusers/modular_pipelines/*/", "more of them"),
    LeftOut("tensorboard_data_server/bin/server", "TensorBoard reads its files without it too, more slowly"),
    LeftOut("tensorboard/webfiles.zip", "its pages; no command starts it, and event files open in any TensorBoard"),
    LeftOut("tensorboard/plugins/projector/tf_projector_plugin/*", "more of them"),
    LeftOut("grpc/_cython/cygrpc*", "TensorBoard's way to that faster reader"),
    LeftOut("prefect/server/ui", "Prefect's earlier pages; it shows the newer ones unless told otherwise"),
    LeftOut("PIL/_avif*", "images in AVIF, which scans are not"),
    LeftOut("pillow.libs/libavif*", "images in AVIF"),
    LeftOut("sympy/physics/*/", "not loaded by torch"),
    LeftOut("setuptools/*.exe", "programs for Windows"),
    LeftOut("fontTools/**/*.c", "sources of what is compiled"),
    LeftOut("skimage/data/*.[jn]p*", "sample images"),
    LeftOut("skimage/data/*.png", "sample images"),
    LeftOut("pydicom/data/test_files", "sample images"),
    LeftOut("numpy/distutils", "its builder of C modules, which Python 3.12 is without"),
    LeftOut("matplotlib/mpl-data/sample_data", "sample data"),
    LeftOut("arviz/data/example_data/data", "sample data"),
    LeftOut("pydicom/sr", "terms of structured reports"),
)

# Their tools rewrite the offsets of sections (patchelf): strip then damages some. Libraries of CUDA were not tried.
NOT_STRIPPED = ("*.libs", "nvidia", "triton")


def leave_out(folder: Path, cuda: bool) -> Iterator[tuple[LeftOut, int]]:
    """Delete what ``LEFT_OUT`` names below site-packages; gives each entry with the bytes that it freed.

    Raises:
        FileNotFoundError: a package has no such files any more.
    """
    for entry in LEFT_OUT:
        package = folder / entry.pattern.partition("/")[0]
        if (cuda and not entry.beside_cuda) or not (package.name == "**" or package.is_dir()):
            continue
        found = [path for path in folder.glob(entry.pattern) if path.name not in entry.but]
        if not found:
            raise FileNotFoundError(f"{folder / entry.pattern}: nothing there; correct LEFT_OUT in {__file__}")
        freed = 0
        for path in found:
            if path.is_dir():
                freed += sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
                shutil.rmtree(path)
            elif path.exists():  # not within a folder that is gone
                freed += path.stat().st_size
                path.unlink()
        yield entry, freed


def strip(folder: Path, cuda: bool) -> int:
    """Take the symbols that no program looks up out of shared libraries; gives the bytes that it freed."""
    kept = (*NOT_STRIPPED, "torch") if cuda else NOT_STRIPPED
    freed = 0
    for path in sorted(folder.rglob("*.so*")):
        package = Path(path.relative_to(folder).parts[0])
        if path.is_file() and not path.is_symlink() and not any(package.match(one) for one in kept):
            before = path.stat().st_size
            subprocess.run(["strip", "--strip-unneeded", path], check=True)
            freed += before - path.stat().st_size
    return freed


def has_cuda(folder: Path) -> bool:
    """Whether site-packages has a build of torch for GPUs."""
    return any(not path.name.endswith("+cpu.dist-info") for path in folder.glob("torch-*.dist-info"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args().folder
    for entry, freed in leave_out(given, has_cuda(given)):
        print(f"{freed / 1e6:7.1f} MB  {entry.pattern}: {entry.why}")
    print(f"{strip(given, has_cuda(given)) / 1e6:7.1f} MB  symbols")
