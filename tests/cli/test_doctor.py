"""doctor: true about this machine, helpful about what is missing, and silent about secrets."""

import json
import socket
import sys
from pathlib import Path

import pytest

from image_longitudinal.cli import doctor
from image_longitudinal.cli.doctor import examine
from tests.cli.test_app import Command, command

__all__ = ["command"]  # a fixture


def test_every_part_of_an_installation_is_looked_at(command: Command) -> None:
    status, printed, _ = command("doctor", "--json")
    found = {one["what"]: one for one in json.loads(printed)["findings"]}
    assert status == 0
    for what in ("Python", "image-longitudinal", "extra pipeline", "device", "memory", "disk, here", "locale"):
        assert found[what]["found"], what
    assert found["Python"]["found"].startswith(".".join(map(str, sys.version_info[:3])))
    assert all(one["do"] for one in found.values() if one["state"] != "ok")
    text = command("doctor")[1]
    for one in found:
        assert one in text


def test_credentials_are_found_and_never_shown(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nowhere")
    assert "AWS_ACCESS_KEY_ID" in next(one.do for one in examine(".") if one.what.startswith("s3"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "SECRET-1")
    monkeypatch.setenv("HF_TOKEN", "SECRET-2")
    monkeypatch.setenv("PREFECT_API_URL", "http://user:SECRET-3@127.0.0.1:9/api")
    for words in (("doctor",), ("doctor", "--json")):
        printed = "".join(map(str, command(*words)))
        assert "present in AWS_ACCESS_KEY_ID" in printed
        assert "SECRET" not in printed


def test_a_server_that_does_not_answer_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        assert [one.state for one in examine(".") if one.what == "Prefect server"] == ["ok"]
    silent = next(one for one in examine(".") if one.what == "Prefect server")
    assert silent.state == "problem"
    assert "make server" in silent.do


def test_little_room_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "LITTLE_DISK", 1e18)
    monkeypatch.setattr(doctor, "LITTLE_MEMORY", 1e18)
    problems = {one.what: one.do for one in examine(str(tmp_path / "none")) if one.state == "problem"}
    assert {"memory", "disk, workspace", "disk, here"} <= problems.keys()
    assert all(problems.values())
    lacking = [
        line.replace("bm3d>=4", "no-such-package-at-all") for line in doctor.requires("image-longitudinal") or ()
    ]
    monkeypatch.setattr(doctor, "requires", lambda _: lacking)
    extra = next(one for one in examine(".") if one.what == "extra bm3d")
    assert "no-such-package-at-all" in extra.found
    assert "image-longitudinal[bm3d]" in extra.do
