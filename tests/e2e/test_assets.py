"""From scan to evaluation: what the server knows of each product, and what it starts when one is made."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser import chromium
from tests.e2e.conftest import cli_arguments, running
from tests.e2e.service import Service
from tests.e2e.test_retraining import add_scans

pytestmark = pytest.mark.e2e

MADE = "prefect.asset.materialization.succeeded"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(Service(tmp_path_factory.mktemp("assets"))) as service:
        yield service


def made(service: Service, kind: str) -> list[dict[str, Any]]:
    """Events of products of a kind that were made, with keys, parents and figures."""
    resource = {"id_prefix": [f"{kind}://"]}
    answer = service.request("events/filter", {"filter": {"event": {"name": [MADE]}, "resource": resource}})
    return [
        {
            "key": one["resource"]["prefect.resource.id"],
            "parents": [r["prefect.resource.id"] for r in one["related"] if r["prefect.resource.role"] == "asset"],
            "figures": one["payload"],
        }
        for one in answer["events"]
    ]


def started(service: Service, deployment: str) -> list[dict[str, Any]]:
    """The parameters of the runs of a deployment."""
    found = service.request(f"deployments/name/{deployment}")
    return [dict(one["parameters"]) for one in service.ask("flow_runs", deployments={"id": {"any_": [found["id"]]}})]


def switch_on(service: Service, automation: str) -> None:
    (found,) = [one for one in service.ask("automations") if one["name"] == automation]
    assert not found["enabled"], "off by default"
    service.request(f"automations/{found['id']}", {"enabled": True}, "PATCH")


def test_products_are_assets_from_scan_to_evaluation_and_what_is_new_starts_what_follows(
    served: Service, tmp_path: Path, tiny_file: Path
) -> None:
    def command(*arguments: object) -> None:
        done = subprocess.run(
            cli_arguments(*arguments, "--config", tiny_file, "--workspace", tmp_path / "work"),
            env=served.environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    switch_on(served, "evaluation of a new data set")
    switch_on(served, "retraining on newly prepared scans")
    add_scans(tmp_path / "a=1 scans", range(60))
    size = ("n_subjects=260", "shard_size=70", "test_fraction=0.2", "association=[1.0, 0.1]")  # can just be evaluated
    generate = (
        "generate",
        "--images",
        tmp_path / "a=1 scans",
        "--output",
        "data",
        *(f"--set=dataset.{one}" for one in size),
    )
    command(*generate)
    (scans,) = served.wait_for(lambda: made(served, "scans"), 60)
    (model,) = served.wait_for(lambda: made(served, "model"), 60)
    (data,) = served.wait_for(lambda: made(served, "dataset"), 60)
    assert scans["key"].startswith("scans://a-1-scans/")
    assert scans["parents"] == ["folder://a-1-scans"]
    assert model["parents"] == [scans["key"]]
    assert data["parents"] == [model["key"]]
    assert scans["figures"]["images"] == 60
    assert model["figures"].keys() >= {"recoverability", "image size"}
    assert data["figures"]["subjects"] == 260
    assert data["figures"]["address"] == str(tmp_path / "data")

    (asked,) = served.wait_for(lambda: started(served, "evaluate-dataset/evaluate-dataset"), 120)
    assert (asked["dataset"], asked["workspace"]) == (str(tmp_path / "data"), str(tmp_path / "work"))
    (asked,) = served.wait_for(lambda: started(served, "retrain-models/retrain-models"), 120)
    assert asked["images"] == str(tmp_path / "a=1 scans")

    quick = [f"--set=evaluation.{one}" for one in ("bootstrap=100", "fit_subjects=80", "rounds=1", "resnet.steps=0")]
    command("evaluate", "data", *quick)
    (evaluation,) = served.wait_for(lambda: made(served, "evaluation"), 60)
    assert evaluation["parents"] == [data["key"]]
    assert "failed checks of the design" in evaluation["figures"]

    command(*generate)
    command("evaluate", "data", *quick)
    assert [len(made(served, one)) for one in ("scans", "model", "dataset", "evaluation")] == [1, 1, 1, 1], "found"
    assert str(tmp_path) not in json.dumps([scans["key"], model["key"], data["key"], evaluation["key"]])

    def key(product: dict[str, Any]) -> str:
        return str(product["key"]).lower().replace("://", "-").replace("/", "-")

    def page(product: dict[str, Any]) -> str:
        (artifact,) = served.ask("artifacts", artifacts={"key": {"any_": [key(product)]}})
        return f"{served.url}/artifacts/artifact/{artifact['id']}"

    (tmp_path / "chromium").mkdir()
    with chromium(tmp_path / "chromium") as browser:
        browser.see(page(evaluation), "asset-evaluation", "Where it comes from", "model ", "scans a=1 scans")
        links = browser.evaluate("[...document.links].map(one => one.getAttribute('href'))")
        assert {f"/artifacts/key/{key(one)}" for one in (data, model, scans)} <= set(links)
        browser.see(f"{served.url}/artifacts/key/{key(data)}", "asset-history", f"record {data['key']}")
        browser.see(page(model), "asset-model", "recoverability", "folder a=1 scans")
        browser.see(f"{served.url}/artifacts", "assets-artifacts", key(evaluation), key(scans))
        browser.see(f"{served.url}/events?resource={data['key']}", "assets-events", "Asset materialization succeeded")
