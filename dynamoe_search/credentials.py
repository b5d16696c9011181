"""Passwords and keys in URLs and in the environment: what no message may show, and what a storage of files needs."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

_IN_AUTHORITY = re.compile(r"(://[^/?#@\s:]*:).*(@)")
"""To the last @ of the line: a password may hold any character, and hiding too much does no harm."""
_IN_QUERY = re.compile(
    r"([?&](?:password|passwd|pwd|sslpassword|passphrase|secret|token|key)=)[^&\s]*", re.I
)
_PASSWORD = re.compile(r"""://[^/?#@\s:"']*:([^/?#\s"']+)@""")
_SECRET_NAME = re.compile(
    r"SECRET|PASSWORD|PASSPHRASE|TOKEN(?!IZ)|CONNECTION_STRING|(ACCESS|ACCOUNT)_KEY", re.I
)
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


def masked(text: str) -> str:
    """Returns text in which the passwords of all URLs are replaced by `***`."""
    return _IN_QUERY.sub(r"\1***", _IN_AUTHORITY.sub(r"\1***\2", text))


def secrets_in(environment: Mapping[str, str]) -> frozenset[str]:
    """Returns what no message may show: the values of variables with such a name, and passwords in those of others."""
    found = {
        secret
        for name, value in environment.items()
        for secret in ([value] if _SECRET_NAME.search(name) else _within(value))
    }
    found |= {unquote(one) for one in found}
    return frozenset(one for one in found if len(one) >= _LEAST_LENGTH)


def without(text: str, secrets: Iterable[str]) -> str:
    """Returns text in which secrets, and the passwords of all URLs, are replaced by `***`."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return masked(text)


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


def _within(value: str) -> Iterator[str]:
    """Yields the passwords in a text: those of its URLs, or, if it is JSON, what has such a name."""
    yield from _PASSWORD.findall(value)
    if value.startswith("{"):
        try:
            yield from _named(json.loads(value))
        except (ValueError, RecursionError):
            return


def _named(values: Any) -> Iterator[str]:
    if not isinstance(values, dict):
        return
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _named(value)
        elif isinstance(value, str) and (name == "key" or _SECRET_NAME.search(name)):
            yield value
