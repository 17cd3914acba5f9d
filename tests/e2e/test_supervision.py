"""What the server does about runs whose processes are gone, seen by states and heartbeats that a test sends to it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient

from image_longitudinal.deployments.supervision import HEARTBEAT, POOL, WORKER, Patience, Supervision
from tests.e2e.service import Service

pytestmark = pytest.mark.e2e


class Runs:
    """Runs on a server without workers, in states that the test says."""

    def __init__(self, service: Service) -> None:
        self.service = service
        service.request("work_pools/", {"name": "nobody", "type": "process"})
        self.flow = service.request("flows/", {"name": "a-flow"})["id"]
        body = {"name": "deployed", "flow_id": self.flow, "work_pool_name": "nobody"}
        self.deployment = service.request("deployments/", body)["id"]

    def new(self, *states: str, deployed: bool = True, **more: object) -> str:
        """A run that has gone through these states, each a type or ``TYPE:Name``."""
        made = {"flow_id": self.flow, **({"deployment_id": self.deployment} if deployed else {}), **more}
        run = str(self.service.request("flow_runs/", made)["id"])
        for state in states:
            self.set(run, state)
        return run

    def set(self, run: str, state: str) -> None:
        kind, _, name = state.partition(":")
        self.service.request(
            f"flow_runs/{run}/set_state", {"state": {"type": kind, "name": name or None}, "force": True}
        )

    def beat(self, run: str) -> None:
        """A heartbeat, once the server can be asked for it."""
        event = {
            "id": str(uuid4()), "occurred": (datetime.now(UTC) + timedelta(minutes=10)).isoformat(),  # another clock
            "event": HEARTBEAT, "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        }  # fmt: skip
        self.service.request("events", [event])
        until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        wanted = {"filter": {"id": {"id": [event["id"]]}, "occurred": {"until": until}}}
        self.service.wait_for(lambda: self.service.request("events/filter", wanted)["events"], 60)

    def accept(self, run: str, worker: str, pool: str = "nobody") -> None:
        """A worker accepts it."""
        self.set(run, "PENDING")
        self.service.request(f"flow_runs/{run}/labels", {WORKER: worker, POOL: pool}, method="PATCH")

    def beat_of_worker(self, worker: str) -> None:
        """A heartbeat of a worker."""
        self.service.request("work_pools/nobody/workers/heartbeat", {"name": worker})

    def name(self, run: str) -> str:
        """The name of its state."""
        return str(self.service.state(run)["name"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    service = Service(tmp_path_factory.mktemp("bare"))
    try:
        service.start_server("SILENCE=100000", "RESTARTS=0")  # only the test acts
        yield Runs(service)
    finally:
        service.stop()


@pytest.fixture
def supervision(runs: Runs) -> Iterator[Supervision]:
    """Its clock is the test's."""
    with SyncPrefectClient(f"{runs.service.url}/api") as client:
        found = Supervision(client, Patience())
        yield found
        for run in runs.service.ask("flow_runs"):
            runs.set(run["id"], "CANCELLED")


def test_a_run_is_crashed_when_its_heartbeats_stop_and_begins_again_when_its_worker_has_reported(
    runs: Runs, supervision: Supervision
) -> None:
    run = runs.new("RUNNING")
    runs.beat(run)
    supervision.look(0)
    runs.beat(run)
    supervision.look(80)
    assert supervision.look(169) == []
    (done,) = supervision.look(170)
    assert "Crashed: No heartbeat for 90 seconds" in done
    assert runs.name(run) == "Crashed"
    supervision.look(180)
    assert supervision.look(189) == []
    (done,) = supervision.look(190)
    assert "AwaitingRetry: Crashed; continues from the finished shards." in done
    assert runs.name(run) == "AwaitingRetry"
    assert supervision.look(1000) == []


def test_a_run_that_died_before_its_first_heartbeat_is_noticed_and_one_that_never_beats_is_not(
    runs: Runs, supervision: Supervision
) -> None:
    """A flow that a program calls sends none unless it is told to; the runs of the work pools do."""
    deployed, called = runs.new("RUNNING"), runs.new("RUNNING", deployed=False)
    supervision.look(0)
    supervision.look(90)
    assert [runs.name(run) for run in (deployed, called)] == ["Crashed", "Running"]


def test_suspended_and_ended_runs_are_left_alone(runs: Runs, supervision: Supervision) -> None:
    """Also if a heartbeat arrives after the state: the process of a suspended run sends some until it notices."""
    names = ("Suspended", "Completed", "Failed", "Cancelled")
    states = ("PAUSED:Suspended", "COMPLETED", "FAILED", "CANCELLED")
    found = [runs.new("RUNNING", state) for state in states]
    for run in found:
        runs.beat(run)
    supervision.look(0)
    assert supervision.look(1000) == []
    assert tuple(map(runs.name, found)) == names


def test_a_run_that_its_worker_never_began_is_scheduled_again(runs: Runs, supervision: Supervision) -> None:
    run = runs.new("PENDING:Submitting")
    supervision.look(0)
    assert supervision.look(599) == []
    (done,) = supervision.look(600)
    assert "Not started within 10 minutes by the worker that accepted it." in done
    assert runs.name(run) == "AwaitingRetry"


def test_a_run_that_a_lost_worker_accepted_is_scheduled_again_sooner(runs: Runs, supervision: Supervision) -> None:
    lost, living, orphan = runs.new(), runs.new(), runs.new()
    for worker, run in (("gone", lost), ("here", living)):
        runs.accept(run, worker)
        runs.beat_of_worker(worker)
    runs.accept(orphan, "gone", pool="deleted")
    supervision.look(0)
    runs.beat_of_worker("here")
    supervision.look(50)
    assert supervision.look(89) == []
    done = supervision.look(90)
    assert len(done) == 2
    assert all("AwaitingRetry: No heartbeat for 90 seconds of the worker that accepted it." in one for one in done)
    assert [runs.name(run) for run in (lost, living, orphan)] == ["AwaitingRetry", "Pending", "AwaitingRetry"]
    runs.beat_of_worker("here")
    runs.set(lost, "PENDING")  # accepted anew, while its label is still that of the lost worker
    supervision.look(95)
    assert supervision.look(180) == []


def test_a_cancelled_run_whose_machine_is_gone_ends_as_cancelled(runs: Runs, supervision: Supervision) -> None:
    run = runs.new("RUNNING", "CANCELLING")
    supervision.look(0)
    (done,) = supervision.look(90)
    assert "Cancelled: No heartbeat" in done
    assert runs.name(run) == "Cancelled"


def test_what_crashes_every_time_or_belongs_to_another_run_or_never_ran_is_not_started_again(
    runs: Runs, supervision: Supervision
) -> None:
    often = runs.new(*["RUNNING", "CRASHED"] * 4)
    never = runs.new("PENDING", "CRASHED")
    of_no_deployment = runs.new("RUNNING", "CRASHED", deployed=False)
    task = runs.service.request(
        "task_runs/", {"flow_run_id": often, "task_key": "a", "dynamic_key": "0", "name": "submits"}
    )
    child = runs.new("RUNNING", "CRASHED", parent_task_run_id=task["id"])
    supervision.look(0)
    assert supervision.look(1000) == []
    assert {runs.name(run) for run in (often, never, of_no_deployment, child)} == {"Crashed"}


def test_a_server_that_comes_back_waits_anew_and_notices_who_died_meanwhile(runs: Runs) -> None:
    dead, alive = runs.new("RUNNING"), runs.new("RUNNING")
    for run in (dead, alive):
        runs.beat(run)
    with SyncPrefectClient(f"{runs.service.url}/api") as client:
        restarted = Supervision(client, Patience())
        restarted.look(0)
        assert restarted.look(89) == []
        runs.beat(alive)
        (done,) = restarted.look(90)
    assert "Crashed" in done
    assert [runs.name(run) for run in (dead, alive)] == ["Crashed", "Running"]
