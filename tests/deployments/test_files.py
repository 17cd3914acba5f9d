"""The files for a server or a container engine: what they name exists, and nothing is open to the network."""

import importlib
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore

from image_longitudinal.core.config import ComputeConfig
from image_longitudinal.deployments.development_tools import development_only
from image_longitudinal.deployments.supervision import Patience
from image_longitudinal.tasks.training.retraining import PROMOTED
from tests.conftest import ROOT

FOLDER = ROOT / "deployments"
DEPLOYMENTS = yaml.safe_load((FOLDER / "prefect.yaml").read_text())["deployments"]
AUTOMATIONS = yaml.safe_load((FOLDER / "automations.yaml").read_text())["automations"]
POOLS = yaml.safe_load((FOLDER / "pools.yaml").read_text())
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text() + (FOLDER / "server.mk").read_text(), re.M))


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["name"])
def test_a_deployment_runs_a_flow_with_parameters_it_has(deployment: dict[str, Any]) -> None:
    path, name = deployment["entrypoint"].split(":")
    flow = getattr(importlib.import_module(f"image_longitudinal.{path.removesuffix('.py').replace('/', '.')}"), name)
    assert set(deployment["parameters"]) <= set(flow.parameters.properties)
    if name != "make_shards":  # of which each worker of its pool takes one
        assert deployment["concurrency_limit"]["limit"] == 1
    strategy = deployment.get("concurrency_limit", {}).get("collision_strategy")
    if deployment.get("schedules"):  # nobody fills in a form, and a backlog is not made up for
        assert set(flow.parameters.required) <= set(deployment["parameters"])
        assert strategy == "CANCEL_NEW"
    else:
        assert strategy in ("ENQUEUE", None), "a person's run is never dropped"


def test_every_flow_is_deployed() -> None:
    decorated = {path.name for path in (ROOT / "flows").glob("*.py") if "\n@flow(" in path.read_text()}
    assert decorated == {Path(one["entrypoint"].split(":")[0]).name for one in DEPLOYMENTS}


@pytest.mark.parametrize("automation", AUTOMATIONS, ids=lambda one: one["name"])
def test_an_automation_is_what_prefect_takes(automation: dict[str, Any]) -> None:
    actions = [
        {**{key: value for key, value in one.items() if key != "deployment"}, "deployment_id": "0" * 32}
        if "deployment" in one
        else one
        for one in automation["actions"]
    ]
    assert AutomationCore.model_validate({**automation, "actions": actions}).name == automation["name"]


def test_silence_is_longer_than_the_time_between_heartbeats_of_every_pool() -> None:
    for pool in POOLS.values():
        assert Patience().silence >= 2 * int(pool["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])


def test_an_automation_waits_for_the_event_of_a_promotion() -> None:
    assert PROMOTED in {event for one in AUTOMATIONS for event in one["trigger"]["expect"]}


def test_services_start_targets_that_exist_and_wait_for_services_that_exist() -> None:
    for name, service in COMPOSE["services"].items():
        if service.get("command", ["make"])[0] == "make" and "command" in service:
            assert service["command"][1] in TARGETS, name
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"]), name
        for volume in service.get("volumes", []):
            source = volume.split(":", 1)[0]
            assert source.startswith("$") or source in COMPOSE["volumes"], volume


def test_only_this_host_reaches_the_server_and_no_password_is_written_down() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:4200:4200"]
    text = (FOLDER / "compose.yaml").read_text()
    assert "${POSTGRES_PASSWORD:?" in text
    assert "${PREFECT_API_AUTH_STRING:?" in text
    assert "--host $(API_HOST)" in (FOLDER / "server.mk").read_text()
    assert re.search(r"^API_HOST \?= 127\.0\.0\.1$", (FOLDER / "server.mk").read_text(), re.M)


def test_the_image_is_made_of_files_that_exist() -> None:
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.M)
    copied = {name for line in lines for name in line.split()}
    assert all(any(ROOT.glob(name)) for name in copied)
    rooms = {path.name for path in (ROOT / "image_longitudinal").iterdir() if path.is_symlink()}
    assert {"image_longitudinal", *rooms} <= copied


def test_images_are_pinned_and_run_by_an_ordinary_user_who_can_write_where_volumes_are() -> None:
    stages = set(re.findall(r" AS ([\w-]+)$", DOCKERFILE, re.M)) | {"scratch"}
    bases = set(re.findall(r"^(?:ARG BASE=|FROM )(?!\$)(\S+)", DOCKERFILE, re.M)) - stages
    pulled = [service["image"] for service in COMPOSE["services"].values() if "build" not in service]
    assert bases
    assert pulled
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", one) for one in (*bases, *pulled))
    assert re.search(r"^USER app$", DOCKERFILE, re.M)
    assert "install --directory --owner app --group app workspace datasets .run /home/app/.prefect" in DOCKERFILE
    assert "chmod 1777 .run" in DOCKERFILE  # runc gave a tmpfs there the mode of the folder below it, and root as owner
    for name, service in COMPOSE["services"].items():
        if "build" in service:
            assert service["read_only"], name
            assert service["build"]["args"]["VERSION"] == "${VERSION:-}", name


def test_every_pool_has_a_worker_and_every_worker_and_server_a_health_check() -> None:
    workers = {one["command"][2].removeprefix("POOL="): one for one in COMPOSE["services"].values()
               if one.get("command", [""] * 2)[1] == "worker"}  # fmt: skip
    assert workers.keys() == POOLS.keys()
    for one in (*workers.values(), COMPOSE["services"]["server"], COMPOSE["services"]["database"]):
        assert one["healthcheck"]["test"]


def test_pods_run_a_worker_that_exists_and_may_write_where_compose_lets_it() -> None:
    *claims, deployment = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8"))
    pod = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    make, target, pool, _ = container["command"]
    assert make == "make"
    assert target in TARGETS
    assert pool.removeprefix("POOL=") in POOLS
    volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
    assert {one["name"] for one in container["volumeMounts"]} == volumes.keys()
    claimed = {one["persistentVolumeClaim"]["claimName"] for one in volumes.values() if "persistentVolumeClaim" in one}
    assert claimed == {one["metadata"]["name"] for one in claims}
    worker = COMPOSE["services"]["worker-shards"]
    writable = {one.split(":")[0] for one in worker["tmpfs"]}
    writable |= {one.rpartition("}:")[2] or one for one in worker["volumes"] if not one.endswith(":ro")}
    mounted = {one["mountPath"] for one in container["volumeMounts"]}
    assert mounted == {path.rpartition(":")[2] for path in writable}


def test_the_slurm_job_is_a_script_that_shells_can_read() -> None:
    job = FOLDER / "generate.sbatch"
    subprocess.run(["bash", "-n", job], check=True)
    text = job.read_text(encoding="utf-8")
    assert set(re.findall(r"\$make ([a-z]+)", text)) <= TARGETS
    for value in re.findall(r"--set compute\.(\w+)", text):
        assert value in ComputeConfig.model_fields


def test_passwords_in_files_enter_neither_git_nor_an_image() -> None:
    for file in (".dockerignore", ".gitignore"):
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        assert {".env", "*.env"} <= {line.removeprefix("**/") for line in lines}, file


def test_tools_for_development_are_told_from_what_runs_need() -> None:
    """Of the packages that are installed here."""
    found = set(development_only((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
    assert {"mypy", "pytest", "ruff", "import-linter"} <= found
    assert not {"torch", "prefect", "numpy", "zarr", "s3fs", "setuptools", "pip"} & found
    others = set(development_only((ROOT / "pyproject.toml").read_text(encoding="utf-8"), ["s3"]))
    assert found | {"torch", "prefect"} <= others, "what reading does not take"
    assert not {"numpy", "zarr", "pyarrow", "s3fs"} & others
