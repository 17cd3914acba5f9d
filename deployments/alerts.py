"""Alerts: automations that post to an address when a run fails or crashes, or a model is promoted or refused.

Off until ``make deploy ALERT_URL=...``; the server keeps the address as a block, and no file or variable has it.
"""

from typing import Any

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from pydantic import SecretStr

from image_longitudinal.deployments.operator_choices import FORGET
from image_longitudinal.tasks.training.retraining import PROMOTED, REFUSED

BLOCK = "image-longitudinal-alerts"
_OF_A_RUN = "flow.name ~ ' ' ~ flow_run.name ~ ': ' ~ flow_run.state.name ~ ': ' ~ (flow_run.state.message or '')"
_OF_A_MODEL = "event.resource.name ~ ': ' ~ event.event"


def alert_automations(block: str) -> list[dict[str, Any]]:
    """The automations that call a webhook block, by its id."""
    # A run of make-shards is made up for by the run that started it.
    of_deployments = {"prefect.resource.role": "deployment", "prefect.resource.name": "!make-shards"}
    failed = ["prefect.flow-run.Failed", "prefect.flow-run.Crashed"]
    return [
        _alert("alert: a run failed or crashed", block, failed, "prefect.flow-run.*", _OF_A_RUN, of_deployments),
        _alert("alert: a model was promoted or refused", block, [PROMOTED, REFUSED], "image-longitudinal.model.*",
               _OF_A_MODEL, {}),
    ]  # fmt: skip


def _alert(
    name: str, block: str, events: list[str], resource: str, text: str, related: dict[str, str]
) -> dict[str, Any]:
    payload = f'{{"text": {{{{ ({text}) | tojson }}}}}}'  # as Slack, Mattermost and Teams take it
    return {
        "name": name, "description": "Set up by make deploy ALERT_URL=...", "enabled": True,
        "trigger": {
            "type": "event", "posture": "Reactive", "match": {"prefect.resource.id": resource},
            "match_related": related, "for_each": ["prefect.resource.id"], "expect": events,
            "threshold": 1, "within": 0,
        },
        "actions": [{"type": "call-webhook", "block_document_id": block, "payload": payload}],
    }  # fmt: skip


def apply_alerts(client: SyncPrefectClient, url: str) -> list[dict[str, Any]]:
    """Set the address of alerts if one is given, or forget it; the automations that shall be there now.

    Args:
        client: of the server.
        url: empty to leave alerts as they are, :data:`FORGET` to switch them off.
    """
    known = [one for one in client.read_block_documents_by_type("webhook") if one.name == BLOCK]
    if url == FORGET:
        for name in (one["name"] for one in alert_automations("0" * 32)):
            for automation in client.read_automations_by_name(name):
                client.delete_automation(automation.id)
        for one in known:
            client.delete_block_document(one.id)
        return []
    if url:
        block = Webhook(method="POST", url=SecretStr(url), headers={"Content-Type": "application/json"})
        return alert_automations(str(block.save(BLOCK, overwrite=True)))
    return alert_automations(str(known[0].id)) if known else []
