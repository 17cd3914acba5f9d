"""Whether a Prefect server can be reached at its address, before anything is sent to it."""

import socket
from typing import NamedTuple
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 3.0
START = "start it with: make server; or unset PREFECT_API_URL"


class Reached(NamedTuple):
    """An address as it may be printed, without a password, and why nothing answers there; None if something does."""

    address: str
    problem: str | None


def reach(url: str) -> Reached:
    """Open and close a connection to the server at ``url``."""
    parts = urlsplit(url)
    try:
        port = parts.port
        address = f"{parts.scheme}://{parts.hostname}" + (f":{port}" if port else "")
        place = (parts.hostname or "", port or (443 if parts.scheme == "https" else 80))
        socket.create_connection(place, TIMEOUT_SECONDS).close()
    except ValueError as error:  # not a port
        return Reached(f"{parts.scheme}://{parts.hostname}", str(error))
    except OSError as error:
        return Reached(address, str(error))
    return Reached(address, None)
