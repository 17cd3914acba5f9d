"""Start a run of a deployment by the name that people type: that of the deployment, or Prefect's flow/deployment."""

from typing import Any, NamedTuple

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import get_current_settings

from image_longitudinal.core.errors import ConfigError

HERE = "http://127.0.0.1:4200/api"  # where make server listens, if nothing else is said


class StartedRun(NamedTuple):
    """A run that the server has accepted and a worker of the pool will take up."""

    id: str
    deployment: str  # flow/deployment
    pool: str
    page: str  # address of its page


def start_run(name: str, parameters: dict[str, Any]) -> StartedRun:
    """Start a run on the server that Prefect's settings name, else on the one of this machine.

    Args:
        name: ``demo`` or ``generate-dataset/demo``.
        parameters: of the flow, in place of the deployment's.

    Raises:
        ConfigError: no server answers, it has no such deployment, or it refuses the parameters.
    """
    settings = get_current_settings()
    url, auth = settings.api.url or HERE, settings.api.auth_string
    with SyncPrefectClient(url, auth_string=auth.get_secret_value() if auth else None) as client:
        try:
            flows = {flow.id: flow.name for flow in client.read_flows()}
            known = {f"{flows[one.flow_id]}/{one.name}": one for one in client.read_deployments()}
            found = [full for full in known if name in (full, known[full].name)]
            if len(found) != 1:
                expected = f"one of {', '.join(sorted(found or known)) or 'none: make deploy registers them'}"
                raise ConfigError("the server has no such deployment", where=url, expected=expected, got=name)
            deployment = known[found[0]]
            run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        except PrefectHTTPStatusError as error:
            do = "correct the parameters (--param), or the password (PREFECT_API_AUTH_STRING)"
            raise ConfigError("the server refused", where=url, got=error.response.text, do=do) from error
        except httpx.HTTPError as error:
            do = "start it (make server), or set PREFECT_API_URL to the one that runs"
            raise ConfigError("no Prefect server answers", where=url, got=repr(error), do=do) from error
    page = f"{url.removesuffix('/api')}/runs/flow-run/{run.id}"
    return StartedRun(str(run.id), found[0], deployment.work_pool_name or "", page)
