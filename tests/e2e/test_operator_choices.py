"""What operators chose stays, on a server with one small deployment; with all of them: tests/e2e/test_operator.py."""

from collections.abc import Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, temporary_settings

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.deployments.operator_choices import (
    FORGET,
    changes,
    keep_switches,
    read_deployments,
    remembered_options,
)
from image_longitudinal.deployments.start import start_run
from tests.e2e.service import Service

pytestmark = pytest.mark.e2e

NIGHTLY = {"slug": "nightly", "active": True, "schedule": {"cron": "0 1 * * *"}}
ADDED = {"active": True, "schedule": {"cron": "0 5 * * *"}}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncPrefectClient]:
    service = Service(tmp_path_factory.mktemp("choices"))
    try:
        service.start_server("RESTARTS=0")
        service.request("work_pools/", {"name": "nobody", "type": "process"})
        service.request("flows/", {"name": "a-flow"})
        with SyncPrefectClient(f"{service.url}/api") as found:
            yield found
    finally:
        service.stop()


def deploy(client: SyncPrefectClient, *schedules: object, **parameters: object) -> None:
    """As ``prefect deploy`` does, which replaces what is there."""
    flow = client.read_flow_by_name("a-flow")
    body = {"name": "deployed", "flow_id": str(flow.id), "work_pool_name": "nobody", "parameters": parameters,
            "schedules": list(schedules), "paused": False}  # fmt: skip
    client.request("POST", "/deployments/", json=body)


def test_options_are_remembered_until_they_are_forgotten(
    client: SyncPrefectClient, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = {"PRESET": "", "SCANS": ""}
    assert remembered_options(client, nothing) == {}
    assert remembered_options(client, {"PRESET": "small", "SCANS": "/scans"}) == {"PRESET": "small", "SCANS": "/scans"}
    assert capsys.readouterr().out == ""
    assert remembered_options(client, nothing) == {"PRESET": "small", "SCANS": "/scans"}
    assert "PRESET=small as in an earlier deploy (PRESET=default forgets it)" in capsys.readouterr().out
    assert remembered_options(client, {"PRESET": FORGET, "SCANS": ""}) == {"SCANS": "/scans"}
    assert remembered_options(client, nothing) == {"SCANS": "/scans"}


def test_switches_stay_and_changes_are_told(client: SyncPrefectClient) -> None:
    deploy(client, NIGHTLY, preset="demo")
    (name, made), *_ = read_deployments(client).items()
    assert name == "a-flow/deployed"
    client.update_deployment_schedule(made.id, made.schedules[0].id, active=False)
    client.request("POST", f"/deployments/{made.id}/schedules", json=[ADDED])
    client.pause_deployment(made.id)
    before = read_deployments(client)

    deploy(client, NIGHTLY, preset="small")
    keep_switches(client, before)
    after = read_deployments(client)
    now = after[name]
    assert now.paused
    assert {one.schedule.cron: one.active for one in now.schedules} == {"0 1 * * *": False, "0 5 * * *": True}  # type: ignore[union-attr]
    assert list(changes(before, after)) == [f"{name}: preset 'demo' → 'small'"]

    deploy(client, NIGHTLY, preset="small")
    keep_switches(client, after, decided=frozenset({name}))
    schedules = read_deployments(client)[name].schedules
    assert {one.slug: one.active for one in schedules}["nightly"], "this deploy decides the schedule"


def test_a_run_is_started_by_either_name(client: SyncPrefectClient) -> None:
    deploy(client)
    with temporary_settings({PREFECT_API_URL: str(client.api_url)}):
        runs = [start_run(name, {}) for name in ("deployed", "a-flow/deployed")]
        with pytest.raises(ConfigError, match=r"no such deployment.*a-flow/deployed"):
            start_run("nothing", {})
    assert {(run.deployment, run.pool) for run in runs} == {("a-flow/deployed", "nobody")}
    nowhere = temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"})
    with nowhere, pytest.raises(ConfigError, match=r"no Prefect server answers.*make server"):
        start_run("deployed", {})
