"""Prefect's settings for a process that runs flows itself, with or without a configured server."""

import os

DEFAULTS = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # without heartbeats, a server's automations take the run for dead
}


def configure_prefect() -> None:
    """Set the defaults as environment variables, before Prefect is imported; variables that are set already stay."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
