"""The console script as a process: flows that are refused, and what is left on disk."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import image_longitudinal as il
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.open import open_root

pytestmark = pytest.mark.e2e
Command = Callable[..., subprocess.CompletedProcess[str]]


def refused(result: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The error message, after checking that it is one line without a traceback, and the exit status."""
    assert result.returncode == status, result.stderr[-2000:]
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr[-2000:]
    return lines[0]


def test_entries_that_the_latent_vector_does_not_have_are_refused(command: Command, tmp_path: Path) -> None:
    result = command(
        "generate", "--output", "out", "--set", "generator.backend=phantom", "--set", "dataset.eta_dims=[0, 1, 99]"
    )
    assert "expected 3 different ones from 0 to 15" in refused(result)
    assert not (tmp_path / "out").exists()


def test_folders_without_usable_scans_are_refused(command: Command, tmp_path: Path) -> None:
    text, bad = tmp_path / "text", tmp_path / "bad"
    for folder in (text, bad):
        folder.mkdir()
    (text / "notes.doc").write_text("not a scan")
    (bad / "broken.jpeg").write_bytes(b"\xff\xd8\xff nothing")
    Image.new("L", (20, 20)).save(bad / "small.png")
    assert "no scans found" in refused(command("generate", "--output", "out", "--images", text))
    message = refused(command("train", "--images", bad))
    assert "too few usable scans" in message
    assert "got 0 of 2; the first: broken.jpeg: " in message
    assert "no folder of scans" in refused(command("ingest", tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


def test_an_output_with_something_else_in_it_is_refused_and_left_alone(
    command: Command, tmp_path: Path, tiny_file: Path
) -> None:
    phantom = ("--config", tiny_file, "--set", "generator.backend=phantom", "--set", "generator.image_size=32")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "thesis.txt" in refused(command("generate", "--output", "mine", *phantom))
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]

    assert command("generate", "--output", "data", *phantom).returncode == 0
    message = refused(command("generate", "--output", "data", *phantom, "--set", "seed=2"))
    assert "different data set" in message
    assert "seed" in message
    assert json.loads((tmp_path / "data" / "dataset.json").read_text())["seed"] == 1

    shown = command("show", "data", "--subject", "3")
    assert "subject 3" in shown.stdout

    shard = tmp_path / "data" / "images.zarr/image/c/2/0/0"
    shard.write_bytes(shard.read_bytes()[:-50])
    message = refused(command("verify", "data"), status=3)
    assert "images.zarr/image/c/2/0/0" in message
    assert "--repair" in message
    again = command("generate", "--output", "data", *phantom)  # the file's size gives it away: it is generated again
    assert again.returncode == 0, again.stderr[-2000:]
    assert command("verify", "data").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_full_disk_is_reported_and_nothing_is_published(command: Command, tmp_path: Path, tiny_file: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", disk]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    phantom = ("generator.backend=phantom", "generator.image_size=32", "dataset.n_subjects=300")
    many = ("--config", tiny_file, *(f"--set={one}" for one in phantom))
    try:
        assert "the disk is too full" in refused(command("generate", "--output", disk / "data", *many))
        assert not (disk / "data").exists()
        subprocess.run(["mount", "-o", "remount,size=300k", disk], check=True)  # the report alone has as much
        message = refused(command("generate", "--output", disk / "data", *many))
        assert "No space left on device" in message
        assert not (disk / "data" / "dataset.json").exists()
        assert not list((disk / "data").rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=10M", disk], check=True)
        assert command("generate", "--output", disk / "data", *many).returncode == 0
        assert verify_dataset(open_root(disk / "data")).ok
    finally:
        subprocess.run(["umount", disk], check=False)


def test_the_python_functions_do_what_the_commands_do(prefect_server: None, tmp_path: Path) -> None:
    url = il.generate(
        tmp_path / "data", workspace=tmp_path, overrides=[
            "generator.backend=phantom", "generator.image_size=32", "dataset.n_subjects=20", "probe.n_images=64",
        ],
    )  # fmt: skip
    assert len(il.open_dataset(url)) == 20
    table = il.simulate(tmp_path / "trial.csv", "one-compartment", subjects=5)
    assert table.read_text().startswith("ID,")
