"""Schemes of addresses that this project reads and writes, and what each needs to be installed."""

import fsspec

from image_longitudinal.core.errors import StorageError

LOCAL = ("file", "local")
_DRIVERS = {  # scheme: what pip installs for it; "" if nothing is needed
    "file": "", "local": "", "memory": "", "s3": "'image-longitudinal[s3]'", "s3a": "'image-longitudinal[s3]'",
    "hf": "'image-longitudinal[hub]'", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
    "adl": "adlfs", "oss": "ossfs", "http": "aiohttp", "https": "aiohttp", "sftp": "paramiko", "ssh": "paramiko",
    "smb": "smbprotocol", "hdfs": "pyarrow",
}  # fmt: skip
KNOWN = "a path, s3://, hf://, gs://, az://, oss://, sftp://, smb://, hdfs://, or http(s):// to read"


_ANONYMOUS: dict[str, dict[str, object]] = {
    "s3": {"anon": True},
    "s3a": {"anon": True},
    "gs": {"token": "anon"},
    "gcs": {"token": "anon"},
}


def anonymous_options(url: str) -> dict[str, object]:
    """The options by which the driver of an address asks for no credentials; none where it needs none anyway.

    Raises:
        StorageError: this project does not know how that driver does it.
    """
    scheme = scheme_of(url)
    if scheme in _ANONYMOUS or scheme in ("", *LOCAL, "http", "https", "hf", "memory"):
        return _ANONYMOUS.get(scheme, {})
    do = "set the driver's own variables in the environment"
    raise StorageError("no anonymous access", where=url, expected=", ".join(_ANONYMOUS), got=scheme, do=do)


def scheme_of(url: str) -> str:
    """The part before ``://``, in small letters; empty for a path."""
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator else ""


def check_scheme(url: str) -> None:
    """Refuse an address that no driver is meant for; one that a program registered with fsspec is accepted.

    Raises:
        StorageError: lists the known schemes.
    """
    scheme = scheme_of(url).split("::")[-1]
    if scheme not in _DRIVERS and scheme not in fsspec.registry:
        raise StorageError("unknown kind of address", where=url, expected=KNOWN, got=f"{scheme}://")


def driver_advice(url: str) -> str:
    """What to do when the driver of an address cannot be loaded."""
    package = _DRIVERS.get(scheme_of(url).split("::")[-1])
    return f"install its driver: pip install {package}" if package else "check the address"
