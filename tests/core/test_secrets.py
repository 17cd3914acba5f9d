"""Passwords and tokens in addresses: hidden in what is passed on, revealed to the connection, and in no message."""

import pytest

from image_longitudinal.core import secrets
from image_longitudinal.core.errors import StorageError
from image_longitudinal.core.secrets import hidden, redacted, revealed, safe_cause


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test hides is known to that test alone."""
    monkeypatch.setattr(secrets, "_whole", {})
    monkeypatch.setattr(secrets, "_secrets", set())


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("https://me:pass-word@host:8443/a/scans.zip?sig=abc%2Fdef&x=1#frag", "https://***@host:8443/a/scans.zip"),
        ("https://a-token@host/scans.zip", "https://***@host/scans.zip"),
        ("ftp://me:pass-word@host/scans", "ftp://***@host/scans"),
        ("zip://CNV/*.jpeg::https://me:pass-word@host/scans.zip", "zip://CNV/*.jpeg::https://***@host/scans.zip"),
    ],
)
def test_secrets_are_hidden_and_revealed(address: str, public: str) -> None:
    assert hidden(address) == hidden(public) == public
    assert revealed(public) == address


def test_a_file_below_a_hidden_folder_is_reached_with_its_secret() -> None:
    assert hidden("ftp://me:other-word@host2/scans") == "ftp://***@host2/scans"
    assert revealed("ftp://***@host2/scans/a/b.png") == "ftp://me:other-word@host2/scans/a/b.png"
    assert revealed("ftp://***@host2/scans-2") == "ftp://***@host2/scans-2"


@pytest.mark.parametrize(
    "address",
    [
        "folder/of scans", "/a#b?c@d", "file:///a#b?c", "s3://bucket/a#b?c", "sftp://me@host/scans", "memory://x",
        "abfs://container@account.dfs.core.windows.net/a", "https://host/scans.zip", "",
    ],
)  # fmt: skip
def test_what_holds_no_secret_is_kept(address: str) -> None:
    assert hidden(address) == address == revealed(address)


def test_messages_and_causes_do_not_repeat_a_secret() -> None:
    hidden("https://me:hunter%2B2hunter@host/x?signature=0123456789")
    driver = OSError("401, url='https://host/x?signature=0123456789', tried hunter+2hunter")
    assert redacted(str(driver)) == "401, url='https://host/x?***', tried ***"
    assert "0123" not in str(StorageError("cannot read", got=driver))
    assert safe_cause(driver) is None
    harmless = OSError("timed out")
    assert safe_cause(harmless) is harmless
    harmless.__cause__ = driver
    assert safe_cause(harmless) is None
