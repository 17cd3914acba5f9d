"""The deployments, and the main job through a worker, started by the commands of the Makefile."""

import json
import os
import re
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from uuid import uuid4

import psutil
import pytest

from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.storage.dataset.verify import verify_dataset
from image_longitudinal.storage.io.open import open_root
from image_longitudinal.tasks.training.retraining import PROMOTED
from tests.deployments.test_files import DEPLOYMENTS, POOLS
from tests.e2e.browser import chromium
from tests.e2e.conftest import TINY, digests
from tests.e2e.service import Service
from tests.e2e.test_recovery import SHARDS, assert_whole, manifests, start

pytestmark = pytest.mark.e2e

CONFIG = {
    **TINY,  # trains a VAE of 30 steps
    "generator": {"backend": "vae", "batch_size": 16},
    "dataset": {"n_subjects": 48, "shard_size": 16, "association": [1.0, 0.5], "test_fraction": 0.25},
}


def test_every_flow_is_deployed_with_a_form_tags_and_the_code_version(service: Service) -> None:
    flows = {flow["id"]: flow["name"] for flow in service.ask("flows")}
    deployed = {f"{flows[one['flow_id']]}/{one['name']}": one for one in service.ask("deployments")}
    assert {one["name"] for one in deployed.values()} == {one["name"] for one in DEPLOYMENTS}
    for name, one in deployed.items():
        assert one["description"], name
        assert one["tags"], name
        assert len(one["version"]) >= 7, name
        assert one["work_pool_name"] in ("cpu", "gpu", "shards"), name
        assert one["enforce_parameter_schema"], name
        properties = one["parameter_openapi_schema"]["properties"]
        assert all(parameter["description"] for parameter in properties.values()), name
    form = deployed["generate-dataset/generate-dataset"]["parameter_openapi_schema"]
    assert form["definitions"]["Config"]["properties"]["dataset"]
    assert form["properties"]["preset"]["enum"] == [
        "demo",
        "scans",
        "scans-128",
        "small",
        "paper",
        "trial",
        "observational",
        "sites",
    ]


def test_deployments_are_scheduled(service: Service) -> None:
    scheduled = {one["name"]: one for one in service.ask("deployments") if one["schedules"]}
    assert {name: one["schedules"][0]["active"] for name, one in scheduled.items()} == {
        "verify-all": True,
        "retrain-models": False,  # make deploy had no SCANS
    }
    soon = service.wait_for(lambda: service.ask("flow_runs", deployments={"name": {"any_": ["verify-all"]}}), 120)
    assert soon[0]["state"]["type"] == "SCHEDULED"  # the server's scheduler works


def test_pools_limit_and_automations_are_there_and_stay_as_the_operator_left_them(service: Service) -> None:
    pools = {pool["name"]: pool for pool in service.ask("work_pools")}
    for name, pool in POOLS.items():
        assert pools[name]["base_job_template"]["variables"]["properties"]["env"]["default"] == pool["env"]
    assert service.request("v2/concurrency_limits/gpu")["limit"] >= 1
    automations = {one["name"]: one for one in service.ask("automations")}
    promoted = automations["new data set after a promotion"]
    assert not promoted["enabled"]

    service.request(f"automations/{promoted['id']}", {"enabled": True}, "PATCH")
    service.request("v2/concurrency_limits/gpu", {"limit": 3}, "PATCH")
    said = service.make("deploy")
    assert "next: make worker" in said
    kept = service.request(f"automations/{promoted['id']}")
    assert kept["enabled"]
    assert kept["trigger"]["id"] == promoted["trigger"]["id"], "an update makes Prefect forget what it has seen"
    assert service.request("v2/concurrency_limits/gpu")["limit"] == 3
    assert len(service.ask("automations")) == len(automations)
    service.request(f"automations/{promoted['id']}", {"enabled": False}, "PATCH")


def test_a_promotion_starts_a_data_set_where_the_automation_is_switched_on(service: Service) -> None:
    (automation,) = [one for one in service.ask("automations") if one["name"] == "new data set after a promotion"]
    service.request(f"automations/{automation['id']}", {"enabled": True}, "PATCH")
    about = {"prefect.resource.id": "image-longitudinal.model.0123456789ab"}
    sent: list[float] = []  # seconds

    def runs() -> list[dict[str, Any]]:
        """The server loads the switched automation after it has answered, so the first event may come too early."""
        if not sent or time.monotonic() > sent[-1] + 15:
            event = {
                "id": str(uuid4()), "occurred": datetime.now(UTC).isoformat(), "event": PROMOTED, "resource": about,
                "payload": {"version": "0123456789ab", "workspace": "/some/where"},
            }  # fmt: skip
            service.request("events", [event])
            sent.append(time.monotonic())
        return [one for one in service.ask("flow_runs") if one["parameters"].get("model") == "0123456789ab"]

    started = service.wait_for(runs, 60)
    service.request(f"automations/{automation['id']}", {"enabled": False}, "PATCH")
    assert started[0]["parameters"]["output"] == "datasets/0123456789ab"
    assert started[0]["parameters"]["workspace"] == "/some/where"
    for one in started:
        service.set_state(one["id"], "CANCELLED")


def test_a_second_scheduled_run_is_cancelled_while_the_first_is_running(service: Service) -> None:
    first, second = (service.run("verify-all/verify-all") for _ in range(2))
    service.set_state(first, "PENDING")  # as a worker that takes it up says
    answer = service.request(f"flow_runs/{second}/set_state", {"state": {"type": "PENDING"}})
    assert answer["state"]["type"] == "CANCELLED"
    service.set_state(first, "CANCELLED")


def test_impossible_parameters_are_refused_before_a_run_begins(service: Service) -> None:
    with pytest.raises(HTTPError) as refused:
        service.run("generate-dataset/demo", preset="huge")
    assert refused.value.code in (409, 422)


@pytest.fixture(scope="module")
def finished(service: Service, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A run of the main job by Prefect's own command, and what it made."""
    output = tmp_path_factory.mktemp("run") / "data"
    service.start("worker")
    parameters = {"output": str(output), "workspace": str(output.parent / "work"), "config": CONFIG}
    service.prefect("deployment", "run", "generate-dataset/generate-dataset", "--params", json.dumps(parameters))
    (run,) = [one for one in service.ask("flow_runs") if one["parameters"].get("output") == str(output)]
    state = service.finished(run["id"])
    assert state["type"] == "COMPLETED", service.log
    return run["id"], output


def test_the_main_deployment_runs_through_a_worker(service: Service, finished: tuple[str, Path]) -> None:
    run, output = finished
    assert service.request(f"flow_runs/{run}")["name"] == f"generate {output}"
    wanted = {"images of shard 0", "outcomes of shard 2", f"publish {output}"}
    of_it = {"id": {"any_": [run]}}  # the server takes note of tasks a little later than of the run
    service.wait_for(lambda: wanted <= {task["name"] for task in service.ask("task_runs", flow_runs=of_it)}, 120)

    artifacts = service.artifacts(run)
    assert artifacts["make-subjects"] == 100
    stages = {row["stage"]: row for row in json.loads(artifacts["run"])}
    assert {"train vae", "make subjects", "read back", "machine"} <= stages.keys()
    assert stages["make subjects"]["done"] == "48 of 48 subjects"
    assert [row["state"] for row in json.loads(artifacts["shards"])] == ["made"] * 3
    assert artifacts["latest-shard"].count("](data:image/png;base64,") == 1
    assert artifacts["dataset"].count("](data:image/png;base64,") == 2
    assert {row["designed"] for row in json.loads(artifacts["association"])} == {1.0, 0.5}

    assert verify_dataset(open_root(output)).ok
    assert len(open_dataset(output)) == 48


def below(service: Service, run: str, name: str) -> str | None:
    """The run that was started within another one, by the beginning of its name."""
    within = {one["id"] for one in service.ask("task_runs", flow_runs={"id": {"any_": [run]}})}
    every = service.ask("flow_runs", sort="START_TIME_DESC")
    found = [one["id"] for one in every if one["name"].startswith(name) and one["parent_task_run_id"] in within]
    return found[0] if found else None


def test_the_pages_show_what_an_operator_looks_for(
    service: Service, finished: tuple[str, Path], tmp_path: Path
) -> None:
    run, output = finished
    deployment = service.request("deployments/name/generate-dataset/generate-dataset")["id"]
    with chromium(tmp_path) as browser:

        def see(page: str, name: str, *texts: str, settle: float = 1) -> str:
            return browser.see(f"{service.url}/{page}", name, *texts, settle=settle)

        def artifact(key: str, *texts: str, of: str = run) -> int:
            """Opens it; how many pictures it shows."""
            wanted = {"flow_run_id": {"any_": [of]}, "key": {"any_": [key]}}
            (latest, *_) = service.ask("artifacts", artifacts=wanted, sort="UPDATED_DESC")
            see(f"artifacts/artifact/{latest['id']}", key, *texts)
            shown = "[...document.images].filter(i => i.src.startsWith('data:image') && i.naturalWidth > 50).length"
            return int(browser.evaluate(shown))

        see("dashboard", "dashboard", "Flow Runs", "Active Work Pools", "cpu", "gpu")
        # The graph appears a while after the text.
        see(f"runs/flow-run/{run}", "flow-run", f"generate {output}", "Completed", "submitted", settle=5)
        artifact("make-subjects", "48 of 48 subjects", "100%")
        artifact("shards", "not made yet")
        assert artifact("latest-shard", "subjects 0 to 15") == 1
        assert artifact("dataset", "48 subjects", str(output)) == 2
        training = service.wait_for(lambda: below(service, run, "train"), 60)
        artifact("train-vae-metrics", "loss", "kl", "active units", of=training)
        assert artifact("train-vae-curves", "Step 30 of 30", of=training) == 1
        form = see(f"deployments/deployment/{deployment}/run", "form", "output", "preset", "refresh")
        assert "Continues an interrupted run; refuses a folder with another data set." in form


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_failed_run_names_shard_and_cause_first_and_its_log_has_no_traceback(
    service: Service, tmp_path: Path
) -> None:
    service.start("worker")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", tmp_path], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        dataset = {**CONFIG["dataset"], "n_subjects": 480}  # several times what there is room for
        config = {"generator": {"backend": "phantom", "image_size": 32}, "dataset": dataset, "seed": 4}
        run = service.run("generate-dataset/demo", output=f"{tmp_path}/data", config=config, workspace=f"{tmp_path}/w")
        state = service.finished(run)
        assert state["type"] == "FAILED"
        assert re.match(r"[^:]*: StorageError: shard \d+: .*No space left on device.*Free some space", state["message"])
        said = service.wait_for(lambda: logged(service, run, "No space left"), 60)
        assert "Traceback" not in "".join(said)
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def logged(service: Service, run: str, text: str) -> list[str]:
    """All lines of a run's log, once one of them says ``text``."""
    said = [one["message"] for one in service.ask("logs", logs={"flow_run_id": {"any_": [run]}})]
    return said if any(text in one for one in said) else []


@pytest.mark.operations
def test_a_run_is_suspended_resumed_and_cancelled_and_ends_as_if_it_never_was(service: Service, tmp_path: Path) -> None:
    data = tmp_path / "data"
    run = start(service, data, 3, seed=3)
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    service.set_state(run, "PAUSED", "Suspended", pause_timeout=until, pause_reschedule=True)  # the button Suspend
    service.wait_for(lambda: not service.flow_processes(run), 30)
    made = manifests(data)
    assert 3 <= len(made) < SHARDS
    assert service.state(run)["name"] == "Suspended"

    assert service.request(f"flow_runs/{run}/resume", {})["status"] == "ACCEPT"
    service.wait_for(lambda: len(manifests(data)) >= len(made) + 3, 300)
    working = service.flow_processes(run)
    service.set_state(run, "CANCELLING")
    service.wait_for(lambda: not any(map(psutil.pid_exists, working)), 30)
    assert service.finished(run)["type"] == "CANCELLED"  # said by a process that Prefect starts for that
    assert not (data / "dataset.json").exists()
    assert made.items() <= manifests(data).items()

    assert_whole(service, start(service, data, 0, seed=3), data)
    assert made.items() <= manifests(data).items()
    interrupted = digests(data)
    again = start(service, data, 0, seed=3, refresh=True)
    assert_whole(service, again, data)
    rows = json.loads(service.artifacts(again)["shards"])
    assert {(row["state"], row["why"]) for row in rows} == {("made", "refresh was requested")}
    assert digests(data) == interrupted
