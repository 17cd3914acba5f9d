"""What operators chose, and ``make deploy`` keeps: options of earlier deploys, and switches in the UI.

The options are a variable of the server, so that they are the same for whoever deploys next.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse

from image_longitudinal.core.errors import ConfigError

VARIABLE = "image_longitudinal_deploy"
FORGET = "default"  # as an option's value: forget what an earlier deploy said
_PULL = "prefect.deployments.steps.set_working_directory"


def remembered_options(client: SyncPrefectClient, given: Mapping[str, str]) -> dict[str, str]:
    """The options of this deploy: those given now, else those of an earlier one. Prints what comes from earlier.

    Args:
        client: of the server that remembers them.
        given: by name; empty if not given, :data:`FORGET` to go back to the default.
    """
    variable = client.read_variable_by_name(VARIABLE)
    value = variable.value if variable else {}
    before = {str(key): str(one) for key, one in value.items()} if isinstance(value, dict) else {}
    options = {name: given[name] or before.get(name, "") for name in given}
    options = {name: value for name, value in options.items() if value and value != FORGET}
    for name in sorted(options.keys() - {name for name, value in given.items() if value}):
        print(f"{name}={options[name]} as in an earlier deploy ({name}={FORGET} forgets it)")
    if variable is None and options:
        client.create_variable(VariableCreate(name=VARIABLE, value=options))
    elif options != before:
        client.update_variable(VariableUpdate(name=VARIABLE, value=options))
    return options


def read_deployments(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    """All deployments of the server, by flow/name."""
    flows = {flow.id: flow.name for flow in client.read_flows()}
    return {f"{flows[one.flow_id]}/{one.name}": one for one in client.read_deployments()}


def check_folder(existing: Mapping[str, DeploymentResponse], ours: set[str], root: Path, take_over: bool) -> None:
    """Refuse to make the workers of other people run from this folder, unless that is what is wanted.

    Args:
        existing: deployments of the server.
        ours: names that are about to be deployed.
        root: the folder from which.
        take_over: do it all the same.

    Raises:
        ConfigError: they were deployed from another folder.
    """
    folders = {_folder(existing[name]) for name in ours & existing.keys()} - {None, str(root)}
    if folders and not take_over:
        raise ConfigError(
            "the deployments of this server run from another folder", expected=root, got=", ".join(map(str, folders)),
            do="deploy from there, or let them run from here: make deploy TAKE_OVER=1",
        )  # fmt: skip


def _folder(deployment: DeploymentResponse) -> str | None:
    for step in deployment.pull_steps or []:
        if _PULL in step:
            return str(step[_PULL]["directory"])
    return None


def keep_switches(
    client: SyncPrefectClient, before: Mapping[str, DeploymentResponse], decided: frozenset[str] = frozenset()
) -> None:
    """Put back what was switched in the UI: paused deployments, schedules that are on or off, or were added.

    Args:
        client: of a server to which the deployments have just been sent again.
        before: its deployments before that.
        decided: names of deployments whose schedules this deploy decides, by an option that was given.
    """
    for name, now in read_deployments(client).items():
        if (then := before.get(name)) is None:
            continue
        if then.paused != now.paused:
            (client.pause_deployment if then.paused else client.resume_deployment)(now.id)
        if name in decided:
            continue
        current = {_key(one): one for one in now.schedules}
        for schedule in then.schedules:
            same = current.get(_key(schedule))
            if same is None:
                client.create_deployment_schedules(now.id, [(schedule.schedule, schedule.active)])
                print(f"{name}: kept the schedule {_words(schedule)}")
            elif same.active != schedule.active:
                client.update_deployment_schedule(now.id, same.id, active=schedule.active)
                print(f"{name}: its schedule stays switched {'on' if schedule.active else 'off'}")


def _key(schedule: DeploymentSchedule) -> str:
    return schedule.slug or schedule.schedule.model_dump_json()


def _words(schedule: DeploymentSchedule) -> str:
    return schedule.slug or str(getattr(schedule.schedule, "cron", schedule.schedule))


def changes(before: Mapping[str, DeploymentResponse], after: Mapping[str, DeploymentResponse]) -> Iterator[str]:
    """One line for each deployment that is new or decides something else than before."""
    for name, now in sorted(after.items()):
        if (then := before.get(name)) is None:
            yield f"{name}: new"
            continue
        found = [f"{what} {old!r} → {new!r}" for what, old, new in _differences(then, now) if old != new]
        if found:
            yield f"{name}: {', '.join(found)}"


def _differences(then: DeploymentResponse, now: DeploymentResponse) -> Iterator[tuple[str, Any, Any]]:
    yield "version", then.version, now.version
    yield "pool", then.work_pool_name, now.work_pool_name
    yield "folder", _folder(then), _folder(now)
    for key in sorted({*(then.parameters or {}), *(now.parameters or {})}):
        yield key, (then.parameters or {}).get(key), (now.parameters or {}).get(key)
    for one in now.schedules:
        active = {_key(old): old.active for old in then.schedules}
        yield f"schedule {_words(one)}", active.get(_key(one)), one.active
