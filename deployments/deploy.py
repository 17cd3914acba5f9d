"""``make deploy``: tell the Prefect server what it may run: pools, limits, deployments, automations.

Applying it twice changes nothing; what an operator switched on or off in the UI stays as it was.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
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
from image_longitudinal.tasks.engine.gpu_slots import GPU_LIMIT, ensure_limit

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deployments"


def main() -> None:
    """Apply everything, in the order in which one needs the other."""
    gpus = visible_gpus()
    with get_client(sync_client=True) as client:
        print(f"telling the server at {client.api_url} what it may run (half a minute)", flush=True)
        pools = yaml.safe_load((FOLDER / "pools.yaml").read_text())
        for name, pool in pools.items():
            apply_pool(client, name, **pool)
        slots = ensure_limit(client, max(gpus, 1))
        deploy(words(gpus))
        for automation in yaml.safe_load((FOLDER / "automations.yaml").read_text())["automations"]:
            apply_automation(client, automation)
    print(f"work pools {', '.join(pools)}, limit {GPU_LIMIT} of {slots}, deployments and automations are in place")
    print(f"next: make worker{' POOL=gpu' if words(gpus)['HEAVY_POOL'] == 'gpu' else ''}")


def words(gpus: int) -> dict[str, str]:
    """What deployments/prefect.yaml leaves open: from the environment, or found out here."""
    scans = os.environ.get("SCANS", "")
    return {
        "VERSION": code_version(),
        "HEAVY_POOL": os.environ.get("HEAVY_POOL") or ("gpu" if gpus else "cpu"),
        "PRESET": os.environ.get("PRESET") or "demo",
        "SCANS": str(Path(scans).absolute()) if scans else "scans",
        "WATCH_SCANS": str(bool(scans)).lower(),
    }


def visible_gpus() -> int:
    """NVIDIA GPUs of this machine, by asking its driver; 0 without one."""
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def code_version() -> str:
    """The commit that is deployed (marked where files differ from it), or the package's version outside git."""
    if given := os.environ.get("IMAGE_LONGITUDINAL_VERSION"):  # an image holds no repository
        return given
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(command, capture_output=True, text=True, check=False) if shutil.which("git") else None
    return found.stdout.strip() if found and found.returncode == 0 else package_version("image-longitudinal")


def apply_pool(client: SyncPrefectClient, name: str, description: str, env: dict[str, str]) -> None:
    """Create the process work pool, or give the one there is this job template; paused stays paused."""
    template = ProcessWorker.get_default_base_job_template()
    template["variables"]["properties"]["env"]["default"] = env
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type=ProcessWorker.type))
    client.update_work_pool(name, WorkPoolUpdate(description=description, base_job_template=template))


def deploy(values: dict[str, str]) -> None:
    """Send deployments/prefect.yaml, by Prefect's own command, so that it means what Prefect's documentation says."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file"]
    done = subprocess.run(
        [*command, "deployments/prefect.yaml"], cwd=ROOT, env={**os.environ, **values}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise ConfigError("the deployments were refused", where=FOLDER / "prefect.yaml", do="see the lines above")


def apply_automation(client: SyncPrefectClient, wanted: dict[str, Any]) -> None:
    """Create the automation, or update the one of this name; its switch stays as it is."""
    actions = [_with_deployment_id(client, action) for action in wanted["actions"]]
    automation = AutomationCore.model_validate({**wanted, "actions": actions})
    there = client.read_automations_by_name(automation.name)
    if there:
        client.update_automation(there[0].id, automation.model_copy(update={"enabled": there[0].enabled}))
    else:
        client.create_automation(automation)


def _with_deployment_id(client: SyncPrefectClient, action: dict[str, Any]) -> dict[str, Any]:
    if "deployment" not in action:
        return action
    found = client.read_deployment_by_name(action["deployment"])
    return {key: value for key, value in action.items() if key != "deployment"} | {"deployment_id": found.id}


if __name__ == "__main__":
    main()
