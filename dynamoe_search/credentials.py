"""Passwords and keys in URLs and in the environment: what no message may show, and what a storage of files needs.

Libraries do not agree on where the password of a URL ends: at the first `@` (SQLAlchemy), or at the last one before a
slash (urllib). So all readings count here: hiding too much does no harm.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, unquote_plus

_HIDDEN = "***"
_USER = re.compile(r"://[^:/]*:")
"""What stands before the password of a URL."""
_WORDS = r"(?:(?=[\w.-]*?(?:passw(?:or)?d|passphrase|pwd|secret|token|key|signature|credential))[\w.-]++|sig)"
_QUERY = re.compile(rf"[?&]{_WORDS}=(?P<secret>[^&]*)", re.I)
_ASSIGNED = re.compile(
    r"(?:passw(?:or)?d|passphrase|secret|accountkey|accesskey|sharedaccesssignature)\s*=\s*"
    r"(?P<secret>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s,;&)]+)",
    re.I,
)
_IN_TEXT = (  # each takes time in proportion to the length of a line, whatever it says
    re.compile(r"^(?>.*?://[^:/\s]*:)(?P<secret>.*)@", re.M),  # to the last @ of the line
    re.compile(rf"[?&]{_WORDS}=(?P<secret>[^&\s]*)", re.I),
    _ASSIGNED,
)
_SECRET_NAME = re.compile(
    r"SECRET|PASSW(OR)?D|PASSPHRASE|TOKEN(?!IZ)|CONNECTION_STRING|(ACCESS|ACCOUNT|API|PRIVATE)_KEY",
    re.I,
)
_COUNT_NAME = re.compile(
    r"^TOKENS$|(?:MAX|MIN|NUM)\w*TOKENS?|TOKEN_?(?:LIMIT|COUNT|BUDGET|LENGTH)$", re.I
)
_NUMBER = re.compile(r"\s*[0-9]{1,7}\s*")
_LEAST_LENGTH = 4  # of what is looked for in a message
_OF_ALL_STORAGE = "FSSPEC_"
_AMAZON, _GOOGLE, _AZURE = ("AWS_",), ("GOOGLE_", "GCSFS_", "STORAGE_EMULATOR_HOST"), ("AZURE_",)
_OF_STORAGE = {
    **dict.fromkeys(("s3", "s3a"), _AMAZON),
    **dict.fromkeys(("gs", "gcs"), _GOOGLE),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), _AZURE),
    "oss": ("OSS_",),
    "tos": ("TOS_",),
    "oci": ("OCI_", "OCIFS_"),
    "hf": ("HF_",),
}
"""Beginnings of the variables in which the packages of fsspec look for credentials, by the protocol of the URL."""


def masked(url: str) -> str:
    """Returns a URL, or a text that ends in one, with `***` for its passwords; also one that is none, mistyped."""
    last = url.rfind("@")
    spans = [(user.end(), last) for user in _USER.finditer(url)]
    spans += [found.span("secret") for found in _QUERY.finditer(url)]
    if "://" not in url and ":" in url:
        spans.append((url.index(":") + 1, last))
    return _without(url, spans)


def secrets_in(environment: Mapping[str, str]) -> frozenset[str]:
    """Returns what no message may show: the values of variables with such a name, and passwords in those of others.

    How many tokens there may be (`MAX_TOKENS=4096`) is no secret.
    A password that its URL shows elsewhere, as the user or the host, is none: it is in every message that names it.
    """
    found: set[str] = set()
    for name, value in environment.items():
        if _is_secret(name, value):
            found.add(value)
        found.update(_within(value))
    found |= {line.strip() for one in found for line in one.splitlines()}  # as messages come
    found |= {unquote(one) for one in found}
    return frozenset(one for one in found if len(one) >= _LEAST_LENGTH)


class Mask:
    """Hides secrets, and the passwords of all URLs, in a text of others: called with it, it returns it with `***`.

    Args:
        secrets: What must not be seen, see `secrets_in`. It is found however it is written: as it is, with some or all
            characters percent-encoded, or escaped as by `repr`, JSON or libpq.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        written = ("".join(map(_written, one)) for one in sorted(secrets))
        self._patterns = (*_IN_TEXT, *(re.compile(f"(?=(?P<secret>{one}))") for one in written))

    def __call__(self, text: str) -> str:
        """Returns text without secrets."""
        found = (one.span("secret") for pattern in self._patterns for one in pattern.finditer(text))
        return _without(text, found)


def needed_by(place: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables in which the package for a storage of files looks for credentials and for its server.

    Args:
        place: A path, or a URL of fsspec. A folder needs none.
        environment: Where they are.
    """
    protocol, separator, _ = place.partition("://")
    if not separator or protocol == "file":
        return {}
    beginnings = (_OF_ALL_STORAGE, *_OF_STORAGE.get(protocol, ()))
    return {name: value for name, value in environment.items() if name.startswith(beginnings)}


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Yields where the passwords of a text that ends in a URL begin and end, in every reading."""
    for user in _USER.finditer(text):
        at = text.find("@", user.end())
        while at >= 0:
            yield user.end(), at
            at = text.find("@", at + 1)
    for found in _QUERY.finditer(text):
        yield found.span("secret")


def _without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Returns text with `***` for some parts of it, which may overlap."""
    parts: list[str] = []
    end = 0
    for start, stop in sorted(one for one in spans if one[0] < one[1]):
        if start > end or not parts:
            parts += [text[end:start], _HIDDEN]
        end = max(end, stop)
    return "".join([*parts, text[end:]])


def _written(character: str) -> str:
    """Returns a pattern for the ways in which a character may be written."""
    encoded = character.encode("utf-8", "surrogatepass")
    escaped = {
        character,
        "\\" + character,
        repr(character)[1:-1],
        json.dumps(character)[1:-1],
        character.encode("unicode_escape").decode(),
        *("+" if character == " " else ""),
        *(("%%",) if character == "%" else ()),  # as in files of configparser
    }
    percent = "".join(f"%%?(?i:{byte:02x})" for byte in encoded)
    return f"(?:{'|'.join([percent, *map(re.escape, sorted(escaped, key=len, reverse=True))])})"


def _is_secret(name: str, value: object) -> bool:
    """Tells whether what has this name, in the environment or in JSON, may not be shown."""
    if _NUMBER.fullmatch(str(value)):
        name = _COUNT_NAME.sub("", name)
    return bool(_SECRET_NAME.search(name))


def _within(value: str) -> Iterator[str]:
    """Yields the passwords in a text: of its URL, of settings such as `password=...`, and, if it is JSON, in that."""
    if value.lstrip()[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            yield from _named(json.loads(value), is_secret=False)
    shown = Mask()(masked(value))
    found = {value[start:stop] for start, stop in _spans(value)}
    found |= {one["secret"].strip("'\"") for one in _ASSIGNED.finditer(value)}
    for one in found:
        yield from (text for text in (one, unquote(one), unquote_plus(one)) if text not in shown)


def _named(values: Any, *, is_secret: bool) -> Iterator[str]:
    """Yields what has the name of a secret, and the passwords in all texts."""
    if isinstance(values, dict):
        for name, one in values.items():
            yield from _named(one, is_secret=name == "key" or _is_secret(name, one))
    elif isinstance(values, list):
        for one in values:
            yield from _named(one, is_secret=is_secret)
    else:
        if is_secret and values is not None and not isinstance(values, bool):
            yield str(values)
        if isinstance(values, str):
            yield from _within(values)
