"""What the server does about runs whose processes are gone; a thread of ``make server``.

Prefect's automations could do the same from events, and miss cases: a heartbeat that arrives after a run was suspended
starts a new wait, a deploy forgets what is being waited for, a restart races with the report of a worker. Here the
states of the runs decide, looked at every few seconds, so that a server that was away misses nothing. Durations are
measured by one clock, from when a state or a heartbeat is seen for the first time: hosts may disagree about the time.
"""

import itertools
import os
import sys
import threading
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import AwaitingRetry, Cancelled, Crashed

PAGE = 200  # runs per request, the server's limit
LOOK_SECONDS = 5.0  # between two looks: a few small queries
HEARTBEAT = "prefect.flow-run.heartbeat"
WORKER, POOL = "prefect.worker.name", "prefect.work-pool.name"  # labels that a worker gives to a run that it accepts
_Seen = dict[tuple[str, UUID], tuple[Hashable, float]]  # what of a run was seen, and since when
RECENT = timedelta(hours=1)  # crashes from before this are history, also for a server that was away


@dataclass(frozen=True)
class Patience:
    """How long the server waits, in seconds, and how often it starts a run again."""

    silence: float = 90.0  # without a heartbeat of a run, or of its worker until it begins: three of their intervals
    beginning: float = 600.0  # until a run begins that a living worker has accepted: a busy machine takes a minute
    report: float = 20.0  # from a crash to the next attempt: a living worker has said all it has to say by then
    restarts: int = 3  # of a run; 0 switches restarts off

    @classmethod
    def from_environment(cls) -> "Patience":
        """With what ``make server SILENCE= RESTARTS=`` sets."""
        get, prefix = os.environ.get, "IMAGE_LONGITUDINAL_"
        silence, restarts = get(f"{prefix}SILENCE"), get(f"{prefix}RESTARTS")
        return cls(silence=float(silence or cls.silence), restarts=int(restarts or cls.restarts))


class Supervision:
    """Looks at the runs of one server.

    Args:
        client: of that server.
        patience: when it acts.
    """

    def __init__(self, client: SyncPrefectClient, patience: Patience) -> None:
        self.client, self.patience = client, patience
        self._seen: _Seen = {}

    def look(self, now: float) -> list[str]:
        """Act on what has lasted too long at ``now`` (seconds of a steady clock); what was done, a line each."""
        seen: _Seen = {}
        done: list[str] = []

        def lasted(kind: str, run: FlowRun, what: Hashable) -> float:
            """For how long this of a run has been the same, as far as we have seen."""
            before, since = self._seen.get((kind, run.id), (None, now))
            seen[kind, run.id] = what, (since if before == what else now)
            return now - seen[kind, run.id][1]

        for run in list(self._runs(StateType.RUNNING, StateType.CANCELLING)):  # before any of them changes
            beat = self._latest_heartbeat(run)
            watched = beat is not None or run.deployment_id is not None  # a flow called from a program need not beat
            if lasted("beat", run, (beat, run.state_id)) >= self.patience.silence and watched:
                why = f"No heartbeat for {self.patience.silence:.0f} seconds; the process or its machine is gone."
                cancelling = run.state_type == StateType.CANCELLING
                done.append(self._set(run, Cancelled(message=why) if cancelling else Crashed(message=why)))
        for run in list(self._runs(StateType.PENDING)):
            if not run.deployment_id:
                continue
            heard = lasted("worker", run, (run.state_id, self._latest_heartbeat_of_worker(run)))
            if lasted("pending", run, run.state_id) >= self.patience.beginning:
                why = f"Not started within {self.patience.beginning / 60:.0f} minutes by the worker that accepted it."
                done.append(self._set(run, AwaitingRetry(message=why)))
            elif heard >= self.patience.silence and WORKER in run.labels:
                why = f"No heartbeat for {self.patience.silence:.0f} seconds of the worker that accepted it."
                done.append(self._set(run, AwaitingRetry(message=why)))
        for run in list(self._recently_crashed()):
            if lasted("crashed", run, run.state_id) >= self.patience.report:
                done.append(self._set(run, AwaitingRetry(message="Crashed; continues from the finished shards.")))
        self._seen = seen  # only now: a look that fails counts for nothing
        return done

    def _runs(self, *types: StateType) -> Iterator[FlowRun]:
        wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))))
        for offset in itertools.count(step=PAGE):
            page = self.client.read_flow_runs(
                flow_run_filter=wanted, sort=FlowRunSort.END_TIME_DESC, limit=PAGE, offset=offset
            )
            yield from page
            if len(page) < PAGE:
                return

    def _recently_crashed(self) -> Iterator[FlowRun]:
        """Runs that may be started again: of deployments, not started by another run, which starts them again itself.

        A run that crashed before its first line (count 0) cannot be started at all: that needs a person.
        """
        for run in self._runs(StateType.CRASHED):
            if run.state is None or run.state.timestamp < datetime.now(UTC) - RECENT:
                return
            if run.deployment_id and not run.parent_task_run_id and 1 <= run.run_count <= self.patience.restarts:
                yield run

    def _latest_heartbeat(self, run: FlowRun) -> UUID | None:
        wanted = EventFilter(
            event=EventNameFilter(name=[HEARTBEAT]),
            resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
            occurred=EventOccurredFilter(until=datetime.now(UTC) + timedelta(days=1)),  # by the clock of its host
        )
        found = self.client.read_events(wanted, limit=1).events
        return found[0].id if found else None

    def _latest_heartbeat_of_worker(self, run: FlowRun) -> datetime | None:
        """That of the worker that accepted the run; None if nobody has, or the worker or its pool was deleted."""
        if not {WORKER, POOL} <= run.labels.keys():
            return None
        try:
            workers = self.client.read_workers_for_work_pool(str(run.labels[POOL]))  # latest heartbeats first
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 404:
                raise
            return None
        return next((one.last_heartbeat_time for one in workers if one.name == run.labels[WORKER]), None)

    def _set(self, run: FlowRun, state: State) -> str:
        result = self.client.set_flow_run_state(run.id, state)
        if result.state is None or result.state.name != state.name:
            return f"run {run.name!r} has ended meanwhile"  # the server refused
        return f"run {run.name!r}: {state.name}: {state.message}"


def supervise(url: str, auth: str | None, patience: Patience) -> None:
    """Look for ever; a server that does not answer (it is starting or ending) is asked again."""
    with SyncPrefectClient(url, auth_string=auth) as client:
        supervision, now, before = Supervision(client, patience), 0.0, time.monotonic()
        answered = False
        while True:
            time.sleep(LOOK_SECONDS)
            before, passed = time.monotonic(), time.monotonic() - before
            now += min(passed, 2 * LOOK_SECONDS)  # a server that was too busy to look did not take heartbeats either
            try:
                for line in supervision.look(now):
                    print(line, file=sys.stderr, flush=True)
                answered = True
            except Exception as error:  # of any kind: nothing may end this thread before the server
                if answered:  # else it is starting
                    print(f"runs were not looked at: {error!r}", file=sys.stderr, flush=True)


def start_supervision(host: str, port: str) -> None:
    """Start the thread, which ends with the server's process."""
    host = host if host.strip("0.:") else "127.0.0.1"  # the address of all interfaces is none to connect to
    auth = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    arguments = f"http://{host}:{port}/api", auth, Patience.from_environment()
    threading.Thread(target=supervise, args=arguments, name="supervision", daemon=True).start()
