"""Several hosts on one machine: a network namespace each, joined by a bridge, with the disk as their shared folder."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SUBNET = "10.213.77"


@dataclass(frozen=True)
class Host:
    """A network namespace with one address; nothing of this machine's network is reached from it but the bridge."""

    namespace: str
    address: str
    cable: str  # the interface at this machine's end

    def command(self, *command: str) -> list[str]:
        """A command that runs on this host."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def cut(self) -> None:
        """Lose the host's network: no packet, so no end of a connection, comes from it any more."""
        _ip("link", "set", self.cable, "down")


def missing() -> str | None:
    """Why this machine cannot have such hosts; None if it can."""
    if os.geteuid() != 0:
        return "network namespaces take root"
    if not shutil.which("ip"):
        return "network namespaces take the command ip (iproute2)"
    name = f"probe-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"this machine allows no network namespace: {tried.stderr.strip()}"
    _ip("netns", "delete", name)
    return None


@contextmanager
def network(*names: str) -> Iterator[dict[str, Host]]:
    """Hosts by name, with addresses from :data:`SUBNET`.2 on; this machine is :data:`SUBNET`.1."""
    bridge, own = f"bridge{os.getpid() % 10**6}", os.getpid() % 10**6
    hosts = {name: Host(f"{name}-{own}", f"{SUBNET}.{n}", f"h{n}c{own}") for n, name in enumerate(names, 2)}
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", f"{SUBNET}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for host in hosts.values():
            _ip("netns", "add", host.namespace)
            _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            _ip("link", "set", host.cable, "master", bridge, "up")
            _ip("-netns", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            for interface in ("lo", "eth0"):
                _ip("-netns", host.namespace, "link", "set", interface, "up")
        yield hosts
    finally:
        for host in hosts.values():
            subprocess.run(["ip", "netns", "delete", host.namespace], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", bridge], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
