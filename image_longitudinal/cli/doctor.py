"""The command ``doctor``: what this installation and machine have, and what to do about what they lack."""

from __future__ import annotations

import locale
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

from image_longitudinal.cli.console import aligned, show
from image_longitudinal.cli.options import WorkspaceOption
from image_longitudinal.cli.server_address import START, reach
from image_longitudinal.core.outputs import can_be_written
from image_longitudinal.core.progress import human_bytes

LITTLE_DISK, LITTLE_MEMORY = 5e9, 4e9  # bytes: models and a demo data set; a training of the preset demo
CREDENTIALS = {  # environment variables and files, any of which is enough; their content is never read
    "s3": (("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN"), ("~/.aws/credentials", "~/.aws/config")),
    "gs": (("GOOGLE_APPLICATION_CREDENTIALS",), ("~/.config/gcloud/application_default_credentials.json",)),
    "az": (("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_ID"), ()),
    "hf": (("HF_TOKEN",), ("~/.cache/huggingface/token",)),
}
_PACKAGE = re.compile(r"[A-Za-z0-9._-]+")  # at the start of a requirement


class Finding(NamedTuple):
    """One thing that was looked at. ``state`` is missing for what is optional, problem for what is in the way."""

    what: str
    state: Literal["ok", "missing", "problem"]
    found: str
    do: str = ""


def doctor_command(workspace: WorkspaceOption = "workspace") -> None:
    """Look at versions, extras, device, memory, disk, locale, server and credentials; say what to do."""
    found = list(examine(workspace))
    sign = {"ok": "ok", "missing": "–", "problem": "!!"}
    lines = []
    for one, row in zip(found, aligned([(sign[one.state], one.what) for one in found], 2).splitlines(), strict=True):
        lines.append(f"{row:<26} {one.found}")
        lines += [f"{'':<26} → {one.do}"] if one.do else []
    problems = sum(one.state == "problem" for one in found)
    verdict = "no problem" if not problems else f"{problems} problem{'s' * (problems > 1)}, marked !!"
    show("\n".join([*lines, f"\n{verdict}; – is optional"]), findings=found, problems=problems)


def examine(workspace: str) -> Iterator[Finding]:
    """Every finding, in the order in which a new installation needs them."""
    yield _python()
    yield Finding("image-longitudinal", "ok", version("image-longitudinal"))
    for extra in ("pipeline", "s3", "hub", "judge", "bm3d"):
        yield _extra(extra)
    yield _device()
    yield _memory()
    yield _disk("disk, workspace", workspace)
    yield _disk("disk, here", ".")
    yield _home()
    yield _locale()
    yield _server(os.environ.get("PREFECT_API_URL"))
    for store, (names, files) in CREDENTIALS.items():
        yield _credentials(store, names, files)


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("Python", "ok", text)
    return Finding("Python", "problem", text, "install Python 3.11, 3.12 or 3.13")


def _extra(extra: str) -> Finding:
    """Which packages of an extra are not installed."""
    marker = f'extra == "{extra}"'
    wanted = [line for line in requires("image-longitudinal") or () if marker in line.replace("'", '"')]
    packages = [match[0] for line in wanted if (match := _PACKAGE.match(line))]
    if not packages:
        do = "install this version of the project again"
        return Finding(f"extra {extra}", "problem", "unknown to this installation", do)
    missing = [name for name in packages if _installed(name) is None]
    title, do = f"extra {extra}", f"pip install 'image-longitudinal[{extra}]'"
    if missing:
        return Finding(title, "missing", f"without {', '.join(missing[:4])}{' ...' * (len(missing) > 4)}", do)
    shown = [name for name in ("torch", "prefect", "pymc") if name in packages] or packages
    return Finding(title, "ok", ", ".join(f"{name} {_installed(name)}" for name in shown))


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device() -> Finding:
    try:
        import torch
    except ImportError:
        return Finding("device", "missing", "no torch: nothing to compute images with", "install the extra pipeline")
    if torch.cuda.is_available():
        names = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
        return Finding("device", "ok", ", ".join(f"{one.name}, {human_bytes(one.total_memory)}" for one in names))
    if torch.backends.mps.is_available():
        return Finding("device", "ok", "Apple GPU (mps)")
    do = "a GPU makes training and generation far faster; the presets demo and scans need none"
    return Finding("device", "ok", "CPU only", do)


def _memory() -> Finding:
    try:
        import psutil

        free = psutil.virtual_memory().available
    except ImportError:
        if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
            return Finding("memory", "missing", "not known without psutil", "install the extra pipeline")
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    little = "close other programs, or use smaller batches (--set vae.batch_size=...)" if free < LITTLE_MEMORY else ""
    return Finding("memory", "problem" if little else "ok", f"{human_bytes(free)} free", little)


def _disk(what: str, place: str) -> Finding:
    folder = Path(place).absolute()
    writable = can_be_written(folder)
    while not folder.exists():
        folder = folder.parent
    free, shown = shutil.disk_usage(folder).free, f"({place})" if place != "." else ""
    if not writable:
        return Finding(what, "problem", f"{folder} cannot be written {shown}".strip(), "choose another folder")
    little = "free some space, or choose another folder" if free < LITTLE_DISK else ""
    return Finding(what, "problem" if little else "ok", f"{human_bytes(free)} free {shown}".strip(), little)


def _home() -> Finding:
    folder = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect").absolute()
    if can_be_written(folder):
        return Finding("Prefect's folder", "ok", str(folder))
    do = "set PREFECT_HOME to a folder that can be written; else each command that runs a flow starts slowly"
    return Finding("Prefect's folder", "missing", f"{folder} cannot be written", do)


def _locale() -> Finding:
    encoding = (sys.stdout.encoding or locale.getpreferredencoding()).lower()
    if "utf" in encoding:
        return Finding("locale", "ok", encoding)
    do = "set LANG=C.UTF-8, or letters such as ρ and η are printed as ?"
    return Finding("locale", "missing", encoding, do)


def _server(url: str | None) -> Finding:
    """Whether the server that commands would use answers at its address."""
    if not url:
        return Finding("Prefect server", "ok", "none configured: commands that need one start a temporary one")
    server = reach(url)
    if server.problem:
        return Finding("Prefect server", "problem", f"{server.address} does not answer: {server.problem}", START)
    return Finding("Prefect server", "ok", f"{server.address} answers")


def _credentials(store: str, names: tuple[str, ...], files: tuple[str, ...]) -> Finding:
    """Where credentials of a store are, never what they are."""
    places = [name for name in names if os.environ.get(name)]
    places += [file for file in files if os.path.exists(os.path.expanduser(file))]
    if places:
        return Finding(f"{store}:// credentials", "ok", f"present in {', '.join(places)}")
    do = f"set {' or '.join(names[:2])} if you need {store}:// addresses that are not public"
    return Finding(f"{store}:// credentials", "missing", "none", do)
