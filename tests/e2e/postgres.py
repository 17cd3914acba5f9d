"""A PostgreSQL server of the tests' own, from the system's package: fresh, on a free port, gone afterwards."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def postgres(password: str = "") -> Iterator[str]:
    """Start one; the address as Prefect takes it, without the password that is asked for if one is given.

    Skips the test, saying so, where the package is not installed.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # Debian keeps them off the path
    initdb = found[-1] if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    programs = Path(initdb).parent
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if user:
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def run(*command: str) -> None:
        done = subprocess.run(command, user=user, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    data, log = str(folder / "data"), str(folder / "log")
    control = str(programs / "pg_ctl")
    try:
        login = ["--auth=trust"]
        if password:
            (folder / "password").write_text(password, encoding="utf-8")
            login = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        run(str(programs / "initdb"), "-D", data, "-U", "prefect", *login, "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        run(control, "-D", data, "-l", log, "-o", options, "-w", "start")
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        run(control, "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
