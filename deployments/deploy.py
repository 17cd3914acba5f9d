"""``make deploy``: register work pools, the GPU limit, deployments and automations with the Prefect server.

Applying it twice changes nothing, and what is changed is printed. What an operator switched on or off in the UI, and
the options of an earlier deploy, stay as they were (deployments/operator_choices.py).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.deployments.alerts import apply_alerts
from image_longitudinal.deployments.operator_choices import (
    FORGET,
    changes,
    check_folder,
    keep_switches,
    read_deployments,
    remembered_options,
)
from image_longitudinal.tasks.engine.gpu_slots import GPU_LIMIT, ensure_limit

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deployments"
OPTIONS = ("SCANS", "PRESET", "HEAVY_POOL")
RETRAINING = "retrain-models/retrain-models"  # whose schedule the option SCANS switches


def main() -> None:
    """Apply everything; automations name deployments, and deployments name pools, so in this order."""
    gpus, given = visible_gpus(), {name: os.environ.get(name, "") for name in OPTIONS}
    if given["SCANS"] not in ("", FORGET):
        given["SCANS"] = str(Path(given["SCANS"]).absolute())
    with get_client(sync_client=True) as client:
        print(f"deploying to the server at {client.api_url} (half a minute)", flush=True)
        before = read_deployments(client)
        deployments = yaml.safe_load((FOLDER / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
        ours = {one["name"] for one in deployments}
        ours = {name for name in before if name.partition("/")[2] in ours}
        check_folder(before, ours, ROOT, take_over=bool(os.environ.get("TAKE_OVER")))
        variables = template_variables(remembered_options(client, given), gpus)
        pools = yaml.safe_load((FOLDER / "pools.yaml").read_text(encoding="utf-8"))
        for name, pool in pools.items():
            apply_pool(client, name, **pool)
        slots = ensure_limit(client, max(gpus, 1))
        apply_deployments(variables)
        keep_switches(client, before, frozenset({RETRAINING} if given["SCANS"] else ()))
        for line in changes(before, read_deployments(client)) if before else ():
            print(line)
        automations = yaml.safe_load((FOLDER / "automations.yaml").read_text(encoding="utf-8"))
        remove_automations(client, automations["retired"])
        for automation in [*automations["automations"], *apply_alerts(client, os.environ.get("ALERT_URL", ""))]:
            apply_automation(client, automation)
    print(f"work pools {', '.join(pools)}, limit {GPU_LIMIT} of {slots}, deployments and automations are in place")
    print(f"next: make worker{' POOL=gpu' if variables['HEAVY_POOL'] == 'gpu' else ''}")


def template_variables(options: Mapping[str, str], gpus: int) -> dict[str, str]:
    """The variables of deployments/prefect.yaml, from the options of ``make deploy`` or this machine."""
    return {
        "VERSION": code_version(),
        "HEAVY_POOL": options.get("HEAVY_POOL") or ("gpu" if gpus else "cpu"),
        "PRESET": options.get("PRESET", "demo"),
        "SCANS": options.get("SCANS", "scans"),
        "WATCH_SCANS": str("SCANS" in options).lower(),
    }


def visible_gpus() -> int:
    """Number of NVIDIA GPUs that the driver of this machine lists; 0 without a driver."""
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, encoding="utf-8", check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def code_version() -> str:
    """The commit that is deployed (marked where files differ from it), or the package's version outside git."""
    if given := os.environ.get("IMAGE_LONGITUDINAL_VERSION"):  # set in an image, which has no repository
        return given
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    described = (
        subprocess.run(command, capture_output=True, encoding="utf-8", check=False) if shutil.which("git") else None
    )
    if described and described.returncode == 0:
        return described.stdout.strip()
    return package_version("image-longitudinal")


def apply_pool(client: SyncPrefectClient, name: str, description: str, env: dict[str, str]) -> None:
    """Create a process work pool, or update its description and job template; a paused pool stays paused."""
    template = ProcessWorker.get_default_base_job_template()
    template["variables"]["properties"]["env"]["default"] = env
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type))
    client.update_work_pool(name, WorkPoolUpdate(description=description, base_job_template=template))


def apply_deployments(variables: dict[str, str]) -> None:
    """Register deployments/prefect.yaml with Prefect's own command, so that it means what Prefect documents.

    Raises:
        ConfigError: Prefect refuses the file; its output is printed.
    """
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file"]
    finished = subprocess.run(
        [*command, "deployments/prefect.yaml"], cwd=ROOT, env={**os.environ, **variables}, capture_output=True,
        encoding="utf-8", check=False,
    )  # fmt: skip
    if finished.returncode:
        print(finished.stdout + finished.stderr, file=sys.stderr)
        raise ConfigError("Prefect refused the deployments", where=FOLDER / "prefect.yaml", do="see the lines above")


def remove_automations(client: SyncPrefectClient, names: Iterable[str]) -> None:
    """Remove automations of these names, which earlier versions deployed."""
    for name in names:
        for automation in client.read_automations_by_name(name):
            client.delete_automation(automation.id)
            print(f"removed the automation {name!r}, which this version does not use")


def apply_automation(client: SyncPrefectClient, wanted: dict[str, Any]) -> None:
    """Create an automation, or update the one of this name if it differs in more than its switch.

    An update removes what the server remembers for its triggers, so that nothing is updated without need.
    """
    actions = [dict(action) for action in wanted["actions"]]
    for action in actions:
        if "deployment" in action:
            action["deployment_id"] = client.read_deployment_by_name(action.pop("deployment")).id
    automation = AutomationCore.model_validate({**wanted, "actions": actions})
    if not (existing := client.read_automations_by_name(automation.name)):
        client.create_automation(automation)
        return
    automation.enabled = existing[0].enabled
    if decisive_content(automation) != decisive_content(existing[0]):
        client.update_automation(existing[0].id, automation)
        print(f"changed the automation {automation.name!r}")


def decisive_content(automation: AutomationCore) -> dict[str, Any]:
    """All that decides what an automation does; identifiers that the server adds are left out."""
    # (as Python objects: events are a set, which JSON lists in an order that depends on how it was made)
    return automation.model_dump(include=set(AutomationCore.model_fields), exclude={"trigger": {"id"}})


if __name__ == "__main__":
    main()
