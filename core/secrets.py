"""Addresses with a password or a token: hidden where they are parsed, revealed where a connection is made.

What is passed on, printed, stored and named is the hidden form, ``https://***@host/scans.zip`` for
``https://me:password@host/scans.zip?token=abc``. The whole form stays in this process's memory.
"""

from urllib.parse import parse_qsl, unquote, urlsplit

MASK = "***"
_whole: dict[str, str] = {}  # by hidden form
_secrets: set[str] = set()  # parts that may turn up in the messages of drivers


def hidden(address: str) -> str:
    """The address without password, and of the web also without user, query and fragment; all else as it is."""
    links = address.split("::")  # of a chain as fsspec takes it
    public = "::".join(_without_secrets(link) for link in links)
    if public != address:
        _whole[public] = address
    return public


def revealed(address: str) -> str:
    """The whole form of a hidden address that this process has seen, or of a file below it; others as they are."""
    for public, whole in _whole.items():
        if address == public or (address.startswith(f"{public}/") and whole.endswith(urlsplit(public).path)):
            return whole + address.removeprefix(public)
    return address


def redacted(text: str) -> str:
    """A text without the secrets of hidden addresses."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def safe_cause(error: BaseException) -> BaseException | None:
    """The error, to be chained and logged with its traceback, unless it repeats a secret."""
    seen: BaseException | None = error
    while seen is not None:
        if redacted(str(seen)) != str(seen):
            return None
        seen = seen.__cause__ or seen.__context__
    return error


def _without_secrets(link: str) -> str:
    if "://" not in link or link.startswith(("file:", "local:")):
        return link
    web = link.startswith(("http:", "https:"))  # elsewhere ? and # belong to names, and a user is no secret
    parts = urlsplit(link, allow_fragments=web)
    user, _, host = parts.netloc.rpartition("@")
    name, colon, password = user.partition(":")
    concealed = f"{MASK}@" if colon or (user and web) else f"{user}@" if user else ""
    path = parts.path if web else link.split("://", 1)[1].removeprefix(parts.netloc)
    found = [password or name] if concealed == f"{MASK}@" else []
    if web:
        values = (value for _, value in parse_qsl(parts.query) if len(value) > 7)  # shorter ones are words or numbers
        found += [parts.query, parts.fragment, *values]
    for secret in found:
        if secret != MASK and len(secret) > 3:  # shorter ones would be replaced in the middle of words
            _secrets.update({secret, unquote(secret)})
    return f"{parts.scheme}://{concealed}{host}{path}"
