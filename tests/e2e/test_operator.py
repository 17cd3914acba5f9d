"""An operator's commands, as docs/howto/operations.md has them, on PostgreSQL and with passwords of awkward letters."""

import asyncio
import base64
import contextlib
import json
import os
import queue
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest

from image_longitudinal.deployments.leases import AFTER_START
from image_longitudinal.tasks.engine.gpu_slots import LEASE_SECONDS
from image_longitudinal.tasks.training.retraining import REFUSED
from tests.conftest import ROOT
from tests.e2e.conftest import cli_arguments
from tests.e2e.postgres import postgres
from tests.e2e.service import Service

pytestmark = pytest.mark.e2e

PASSWORD = r"p@ss: w\ord/%41"


class Operated(Service):
    """A service with its database's address, which is given to make."""

    database: str

    def make(self, target: str, *variables: str) -> str:
        """As the operator types it, with the database where that is needed."""
        return super().make(target, *variables, f"DATABASE={self.database}")

    def refused(self, target: str, *variables: str, **environment: str) -> str:
        """What is said by a command that fails, in one line."""
        command = ["make", "--silent", "-f", "deployments/server.mk", target, f"BIN={os.path.dirname(sys.executable)}"]
        done = subprocess.run(
            [*command, *variables], cwd=ROOT, env={**self.environment, **environment}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode, done.stdout
        said = [line for line in done.stderr.splitlines() if "rror: " in line]
        assert said, done.stderr
        return said[0]

    def deployment(self, name: str) -> dict[str, object]:
        """A deployment by flow/name."""
        return dict(self.request(f"deployments/name/{name}"))


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    home = tmp_path_factory.mktemp("operated")
    passwords = home / "pgpass"
    passwords.write_text("*:*:*:prefect:" + PASSWORD.replace("\\", "\\\\").replace(":", "\\:") + "\n")
    passwords.chmod(0o600)
    service = Operated(home, PREFECT_API_AUTH_STRING=f"operator:{PASSWORD}", PGPASSFILE=str(passwords))
    with postgres(PASSWORD) as service.database:
        try:
            service.start_server(f"DATABASE={service.database}", "METRICS=1", "LOGS=json")
            service.make("deploy")
            yield service
        finally:
            service.stop()


def test_the_pages_ask_the_server_that_they_come_from(operated: Operated) -> None:
    with urlopen(f"{operated.url}/ui-settings") as answer:
        assert b'"api_url":"/api"' in answer.read()
    assert f"Prefect's server with its pages: {operated.url}" in operated.log


def test_the_server_answers_prometheus(operated: Operated) -> None:
    request = Request(f"{operated.url}/api/metrics")
    login = base64.b64encode(f"operator:{PASSWORD}".encode()).decode()
    request.add_header("Authorization", f"Basic {login}")
    with urlopen(request) as answer:
        assert b"# TYPE " in answer.read()


@contextmanager
def tls_proxy(port: int, home: Path) -> Iterator[tuple[str, Path]]:
    """What nginx or Caddy does with TLS: an https address in front of a port, and the certificate to trust."""
    certificate, key = home / "certificate.pem", home / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost", "-out", certificate, "-keyout", key], check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop, opened = asyncio.new_event_loop(), queue.SimpleQueue[int]()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(65536):
                target.write(piece)
                await target.drain()
        target.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, before = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, before), pump(behind, writer))

    async def serve() -> None:
        server = await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)
        opened.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    def run() -> None:
        with contextlib.suppress(RuntimeError):  # it is stopped in the midst
            loop.run_until_complete(serve())

    threading.Thread(target=run, daemon=True).start()
    try:
        yield f"https://localhost:{opened.get(timeout=60)}", certificate
    finally:
        loop.call_soon_threadsafe(loop.stop)


def test_pages_and_commands_work_through_a_proxy_with_tls(operated: Operated, tmp_path: Path) -> None:
    with tls_proxy(int(operated.port), tmp_path) as (url, certificate):
        trusting = ssl.create_default_context(cafile=str(certificate))
        with urlopen(f"{url}/ui-settings", context=trusting) as answer:
            assert b'"api_url":"/api"' in answer.read()
        with pytest.raises(HTTPError, match="401"):
            urlopen(f"{url}/api/admin/version", context=trusting)
        elsewhere = {"PREFECT_API_URL": f"{url}/api", "PREFECT_API_SSL_CERT_FILE": str(certificate)}
        done = subprocess.run(
            cli_arguments("run", "verify-all"), env={**operated.environment, **elsewhere}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"{url}/runs/flow-run/" in done.stdout


def test_a_run_is_started_by_the_name_that_people_type(operated: Operated) -> None:
    for name, full in (("demo", "generate-dataset/demo"), ("generate-dataset", "generate-dataset/generate-dataset")):
        said = operated.make("run", f"DEPLOYMENT={name}", "ARGS=--param output=somewhere")
        assert f"{full} waits for a worker of the pool cpu" in said
        (shown,) = re.findall(r"/runs/flow-run/(\S+)", said)  # on a slow machine progress is printed too
        run = operated.request(f"flow_runs/{shown}")
        assert run["parameters"]["output"] == "somewhere"
        assert run["deployment_id"] == operated.deployment(full)["id"]
    said = operated.refused("run", "DEPLOYMENT=no-such")
    assert "the server has no such deployment" in said
    assert "generate-dataset/demo" in said
    assert "the server refused" in operated.refused("run", "DEPLOYMENT=demo", "ARGS=--param preset=huge")
    assert "the server refused" in operated.refused("run", "DEPLOYMENT=demo", PREFECT_API_AUTH_STRING="operator:wrong")
    nobody = operated.refused("run", "DEPLOYMENT=demo", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert "no Prefect server answers" in nobody
    assert "make server" in nobody


def test_the_second_run_that_a_person_starts_waits_for_the_first(operated: Operated) -> None:
    first, second = (operated.run("generate-dataset/demo") for _ in range(2))
    operated.set_state(first, "PENDING")  # as a worker that takes it up says
    answer = operated.request(f"flow_runs/{second}/set_state", {"state": {"type": "PENDING"}})
    assert (answer["state"]["type"], answer["state"]["name"]) == ("SCHEDULED", "AwaitingConcurrencySlot")
    for run in (first, second):
        operated.set_state(run, "CANCELLED")


def test_a_deploy_keeps_what_an_operator_switched_and_what_the_last_one_said(
    operated: Operated, tmp_path: Path
) -> None:
    main, nightly = "generate-dataset/generate-dataset", "verify-all/verify-all"
    said = operated.make("deploy", "PRESET=small", f"SCANS={tmp_path}")
    assert "preset 'demo' → 'small'" in said
    verify = operated.deployment(nightly)
    (schedule,) = verify["schedules"]  # type: ignore[misc]
    operated.request(f"deployments/{verify['id']}/schedules/{schedule['id']}", {"active": False}, "PATCH")
    operated.request(f"deployments/{operated.deployment(main)['id']}/pause_deployment", {})
    operated.request(f"deployments/{verify['id']}/schedules", [{"active": True, "schedule": {"cron": "0 5 * * *"}}])

    said = operated.make("deploy")
    assert "PRESET=small as in an earlier deploy" in said
    assert operated.deployment(main)["parameters"]["preset"] == "small"  # type: ignore[index]
    assert operated.deployment(main)["paused"]
    kept = {one["schedule"]["cron"]: one["active"] for one in operated.deployment(nightly)["schedules"]}  # type: ignore[attr-defined]
    assert kept == {"0 1 * * *": False, "0 5 * * *": True}
    retraining = operated.deployment("retrain-models/retrain-models")
    assert retraining["parameters"]["images"] == str(tmp_path)  # type: ignore[index]
    assert retraining["schedules"][0]["active"]  # type: ignore[index]

    said = operated.make("deploy", "PRESET=default", "SCANS=default")
    assert "preset 'small' → 'demo'" in said
    assert not operated.deployment("retrain-models/retrain-models")["schedules"][0]["active"]  # type: ignore[index]
    operated.request(f"deployments/{operated.deployment(main)['id']}/resume_deployment", {})


def test_another_checkout_does_not_redirect_the_deployments_unasked(operated: Operated, tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    for room in ("image_longitudinal", "core", "deployments", "flows", "models", "storage", "tasks"):
        shutil.copytree(ROOT / room, copy / room, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "image_longitudinal.deployments.deploy"]
    environment = {**operated.environment, "PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "the deployments of this server run from another folder" in done.stderr
    assert "TAKE_OVER=1" in done.stderr
    assert str(ROOT) in str(operated.deployment("generate-dataset/demo")["pull_steps"])


@contextmanager
def listener() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """An address that takes alerts, and what it has taken."""
    taken: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alerts", taken
    finally:
        server.shutdown()
        server.server_close()


def test_failures_and_refused_models_are_posted_where_the_operator_says(operated: Operated) -> None:
    def alerts() -> set[str]:
        return {one["name"] for one in operated.ask("automations") if one["name"].startswith("alert: ")}

    assert not alerts()
    with listener() as (url, taken):
        operated.make("deploy", f"ALERT_URL={url}")
        assert len(alerts()) == 2
        assert "changed" not in operated.make("deploy"), "nothing differs"
        run = operated.run("verify-all/verify-all")
        operated.set_state(run, "PENDING")
        state = {"type": "FAILED", "message": 'no "space" left'}
        operated.request(f"flow_runs/{run}/set_state", {"state": state, "force": True})
        (alert,) = operated.wait_for(lambda: list(taken), 120)
        assert alert["text"].startswith("verify-all ")
        assert alert["text"].endswith('Failed: no "space" left')
        resource = {"prefect.resource.id": "image-longitudinal.model.0123", "prefect.resource.name": "model 0123"}
        event = {"id": str(uuid4()), "occurred": datetime.now(UTC).isoformat(), "event": REFUSED, "resource": resource}
        operated.request("events", [event])
        operated.wait_for(lambda: {"text": f"model 0123: {REFUSED}"} in taken, 120)
    operated.make("deploy", "ALERT_URL=default")
    assert not alerts()


HOLDER = """
import sys
from image_longitudinal.tasks.engine.gpu_slots import held_slots
print("asks", flush=True)
with held_slots(1):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(service: Service) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the only slot of the limit gpu until its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER], env={**service.environment, "PREFECT_CLIENT_MAX_RETRIES": "8"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert says(process, "asks")
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def says(process: subprocess.Popen[str], word: str) -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == f"{word}\n"


def taken(service: Service) -> int:
    return int(service.request("v2/concurrency_limits/gpu")["active_slots"])


def test_the_slot_of_a_killed_holder_is_free_within_90_seconds(operated: Operated) -> None:
    with holder(operated) as first:
        assert says(first, "held")
        with holder(operated) as second:
            time.sleep(5)  # it asks, and is told to wait
            assert taken(operated) == 1
            first.send_signal(signal.SIGKILL)
            began = time.monotonic()
            assert says(second, "held")
            assert time.monotonic() - began < 90
    operated.wait_for(lambda: taken(operated) == 0, 100)


def test_a_slot_stays_with_its_holder_while_the_server_is_away_longer_than_a_lease(operated: Operated) -> None:
    with holder(operated) as process:
        assert says(process, "held")
        operated.kill("server")
        time.sleep(LEASE_SECONDS + 20)  # more than a lease and its slack
        operated.start_server(f"DATABASE={operated.database}")
        until = (
            time.monotonic() + AFTER_START.total_seconds() + 2 * LEASE_SECONDS
        )  # longer than all leases are extended
        while time.monotonic() < until:
            assert taken(operated) == 1
            time.sleep(6)  # the server looks for expired leases every 5 seconds
        process.communicate(timeout=400)
        assert process.returncode == 0
    operated.wait_for(lambda: taken(operated) == 0, 30)


def test_a_backup_is_restored(operated: Operated, tmp_path: Path) -> None:
    file = tmp_path / "prefect.backup"
    run = operated.run("verify-all/verify-all")
    assert str(file) in operated.make("backup", f"FILE={file}")
    assert file.stat().st_mode & 0o777 == 0o600
    assert "the backup exists" in operated.refused("backup", f"FILE={file}", f"DATABASE={operated.database}")
    operated.request(f"flow_runs/{run}", method="DELETE")
    operated.kill("server")
    operated.make("restore", f"FILE={file}")
    operated.start_server(f"DATABASE={operated.database}")
    assert operated.state(run)["type"] == "SCHEDULED"
    operated.make("deploy")
