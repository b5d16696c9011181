"""No secret is shown, wherever it stands; a storage of files gets the variables of its kind and no others."""

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import quote, quote_plus

import pytest
import sqlalchemy as sa
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import exc

from dynamoe_search.cli.streams import Masked
from dynamoe_search.clusters.orders import Order
from dynamoe_search.credentials import (
    _IN_TEXT,
    Mask,
    _spans,
    _without,
    masked,
    needed_by,
    secrets_in,
)
from dynamoe_search.places import PlaceError, RemotePath, _place_error
from dynamoe_search.store.problems import problem

SECRETS = st.text(st.sampled_from("abcXYZ019+=_.%~-"), min_size=4, max_size=40)
PASSWORDS = st.text(
    st.one_of(
        st.sampled_from("/ %@:?&#=+'\"\\[]{}é"),
        st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")),
    ),
    min_size=4,
    max_size=24,
).filter(lambda text: len(text.strip()) >= 4)
HARMLESS = "this does not work"
HARD = ("p/ss w@rd", "100%25 sure", "a'b\"c\\d", "x?password=y@z", "[::1]:p@ss/", "%70%61%73%73")
WRITTEN: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "encoded": lambda text: quote(text, safe=""),
    "encoded by SQLAlchemy": lambda text: quote(text, safe=" +"),
    "encoded as in a form": quote_plus,
    "encoded in small letters": lambda text: quote(text, safe="/").replace("%2F", "%2f"),
    "encoded throughout": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "encoded for a configuration": lambda text: quote(text, safe="").replace("%", "%%"),
    "repr": lambda text: repr(text)[1:-1],
    "JSON": lambda text: json.dumps(text)[1:-1],
}
IN_URLS = ("as it is", "encoded", "encoded by SQLAlchemy", "encoded in small letters")
ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": "one",
    "AWS_ENDPOINT_URL": "http://minio:9000",
    "AZURE_STORAGE_ACCOUNT_NAME": "two",
    "FSSPEC_S3": '{"key": "three"}',
    "GOOGLE_APPLICATION_CREDENTIALS": "/keys/four.json",
    "HOME": "/home/me",
    "PATH": "/bin",
}


def database(password: str) -> sa.URL:
    return sa.URL.create("postgresql+psycopg", "me", password, "db.example", 5432, "studies")


def with_hard_ones(test: Any) -> Any:
    for password in HARD:
        test = example(password=password)(test)
    return settings(max_examples=30)(test)


@given(secret=SECRETS, around=st.text(max_size=20))
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("AWS_SECRET_ACCESS_KEY", "{}"),
        ("AWS_SESSION_TOKEN", "{}"),
        ("AZURE_STORAGE_CONNECTION_STRING", "{}"),
        ("AZURE_CONNECTION", "DefaultEndpointsProtocol=https;AccountKey={};EndpointSuffix=x"),
        ("FSSPEC_FTP_PASSWORD", "{}"),
        ("PGPASSWORD", "{}"),
        ("DATABASE", "host=db.example user=me password={} dbname=studies"),
        ("DYNAMOE_SEARCH_STORAGE", "postgresql+psycopg://me:{}@host/studies"),
        ("DYNAMOE_SEARCH_STORAGE", "postgresql+psycopg://me@firm:{}@host/studies"),
        ("DYNAMOE_SEARCH_STORAGE", "postgresql+psycopg://host/studies?user=me&password={}"),
        ("DYNAMOE_SEARCH_LOGS", '["mlflow=https://me:{}@host/x", "tensorboard=runs"]'),
    ],
)
def test_no_secret_is_left_in_a_message(name: str, form: str, secret: str, around: str) -> None:
    secrets = secrets_in({name: form.format(secret), "PATH": "/bin"})
    assert secret in secrets
    assert secret not in Mask(secrets)(f"{around}{secret}{around}").replace(around, "")


@with_hard_ones
@given(password=PASSWORDS)
@pytest.mark.parametrize("way", IN_URLS)
def test_a_password_is_known_as_sqlalchemy_reads_it(way: str, password: str) -> None:
    for text in (
        f"postgresql+psycopg://me:{WRITTEN[way](password)}@host/studies",
        f"postgresql+psycopg://host/studies?user=me&password={WRITTEN[way](password)}",
    ):
        try:
            url = sa.make_url(text)
        except (ValueError, exc.ArgumentError):  # what it takes for the port is no number
            continue
        for read in (url.password, url.query.get("password")):
            if isinstance(read, str) and len(read) >= 4 and read not in masked(text):
                assert read in secrets_in({"URL": text})


@with_hard_ones
@given(password=PASSWORDS)
@pytest.mark.parametrize("way", WRITTEN)
def test_a_password_is_hidden_however_it_is_written(way: str, password: str) -> None:
    secrets = secrets_in({"URL": database(password).render_as_string(hide_password=False)})
    assume(password in secrets)
    written = WRITTEN[way](password)
    for line in ("no way in with {}", "{}: wrong", "<{}>", "url=postgresql://me:{}@host/x"):
        assume(written not in line)
        assert written not in Mask(secrets)(line.format(written))


@with_hard_ones
@given(password=PASSWORDS)
@pytest.mark.parametrize("way", IN_URLS[1:])
def test_a_url_is_shown_without_its_password(way: str, password: str) -> None:
    own = WRITTEN[way](password)
    assume("@" not in own and "&" not in own and "?" not in own)
    for form in ("x://me:{}@host/a", "mlflow=https://me@firm:{}@host", "x://host/a?password={}"):
        assert masked(form.format(own)) == form.format("***")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x://me:a@b/c d@host/e", "x://me:***@host/e"),
        ("x://host/a?password=a b@c", "x://host/a?password=***"),
        ("x://me:a?key=b@host/c", "x://me:***"),
        ("x:/me:secret@host/a", "x:***@host/a"),
        ("me:secret@host", "me:***@host"),
        ("x://me@host/studies", "x://me@host/studies"),
        ("x://host:5432/studies?sslmode=require", "x://host:5432/studies?sslmode=require"),
        ("/home/me/studies.db", "/home/me/studies.db"),
    ],
)
def test_what_is_shown_of_a_url(text: str, shown: str) -> None:
    assert masked(text) == shown


@with_hard_ones
@given(password=PASSWORDS)
def test_no_error_has_the_password(password: str) -> None:
    url = database(password)
    whole = url.render_as_string(hide_password=False)
    place = RemotePath(f"ftp://me:{quote(password, safe='')}@host")
    assume(password in secrets_in({"URL": whole}) & secrets_in({"URL": place.root}))
    ways = {write(password) for write in WRITTEN.values()}
    for text in (password, whole, repr({"password": password}), f"password={password!r}"):
        other = f"{HARMLESS} {{'password': '***'}}"
        expected = repr(
            [problem(database("***"), OSError(other)), PlaceError("", "", may_pass=True), place]
        )
        assume(not any(way in expected for way in ways))
        cause = OSError(f"{HARMLESS}: {text}")
        for error in (
            problem(url, cause),
            problem(url, exc.OperationalError("select", {}, cause)),
            _place_error(place, cause),
        ):
            shown = f"{error} {error!r} {error.args}"
            assert not any(way in shown for way in ways)
    for shown in (str(place), repr(place), place.name, repr(place / "a"), repr([place])):
        assert not any(way in shown for way in ways)


def test_a_password_that_is_the_name_of_something_hides_nothing_else() -> None:
    mask = Mask(secrets_in({"URL": "postgresql://postgres:postgres@localhost/postgres"}))
    text = "postgresql://postgres:postgres@localhost/postgres: no such user postgres"
    assert mask(text) == "postgresql://postgres:***@localhost/postgres: no such user postgres"
    assert mask("host=x password=postgres") == "host=x password=***"


@given(secret=SECRETS)
def test_secrets_in_json_are_found(secret: str) -> None:
    text = json.dumps({"endpoint_url": "http://minio:9000", "client_kwargs": {"secret": secret}})
    assert secrets_in({"FSSPEC_S3": text}) >= {secret}
    assert "http://minio:9000" not in secrets_in({"FSSPEC_S3": text})


def test_secrets_in_json_need_not_be_texts_of_their_own() -> None:
    text = json.dumps(
        {
            "password": 271828,
            "tokens": ["first", ["second"]],
            "connection_string": "AccountName=me;AccountKey=third",
            "anonymous_token": True,
            "port": 9000,
        }
    )
    found = secrets_in({"FSSPEC_ABFS": text})
    assert found >= {"271828", "first", "second", "third"}
    assert not found & {"True", "9000", "me"}


def test_what_is_no_secret_stays() -> None:
    harmless = {"TOKENIZERS_PARALLELISM": "false", "HOME": "/home/me", "FSSPEC_S3": "{", "X": "{1:"}
    assert secrets_in(harmless) == frozenset()
    assert secrets_in({"PGPASSWORD": "me"}) == frozenset()  # too short to be looked for
    assert Mask(["mine"])("password authentication failed for me") == (
        "password authentication failed for me"
    )


@pytest.mark.parametrize("name", ["MAX_TOKENS", "tokens", "LLM_TOKEN_LIMIT", "maxTokens"])
def test_how_many_tokens_there_may_be_is_no_secret(name: str) -> None:
    assert secrets_in({name: "4096"}) == frozenset()
    assert secrets_in({"FSSPEC_S3": json.dumps({name: 4096})}) == frozenset()
    assert secrets_in({name: "hunter2"}) == {"hunter2"}
    assert secrets_in({f"PASSWORD_OF_{name}": "4096"}) == {"4096"}
    assert secrets_in({"AUTH_TOKEN": "4096"}) == {"4096"}


LONG = 300_000
"""So often repeated, a text would take hours, or the rest of the day, if it took time in proportion to the square."""


@pytest.mark.parametrize(
    "text",
    [
        "://a:" * LONG,
        "@" + "://a:" * LONG,
        "://" * LONG,
        "://a" * LONG,
        "?" + "token" * LONG,
        "&key" * LONG,
        "?" + "a" * LONG,
        "secret='" + "secret=" * LONG,
        "secret=" + " " * LONG,
        "secret" + " " * LONG,
        "secret='" + "\\" * LONG,
    ],
    ids=lambda text: text[:12],
)
def test_no_line_takes_long(text: str) -> None:
    assert Mask()(text).startswith(text[:1])
    assert masked(text).startswith(text[:1])


OLD_WORDS = (
    r"(?:[\w.-]*(?:passw(?:or)?d|passphrase|pwd|secret|token|key|signature|credential)[\w.-]*|sig)"
)
SLOW = (
    re.compile(r"://[^:/\s]*:(?P<secret>.*)@"),
    re.compile(rf"[?&]{OLD_WORDS}=(?P<secret>[^&\s]*)", re.I),
    *_IN_TEXT[2:],
)
"""What is meant, in a way that takes long."""
PIECES = st.sampled_from(
    [
        "://",
        ":",
        "@",
        "/",
        " ",
        "\n",
        "\r",
        "a",
        "?",
        "&",
        "=",
        "token",
        "Key",
        "sig",
        "-",
        "'",
        "é",
    ]
)


@settings(max_examples=500)
@given(text=st.lists(PIECES, max_size=25).map("".join))
def test_fast_patterns_find_what_slow_ones_do(text: str) -> None:
    slow = [one.span("secret") for pattern in SLOW for one in pattern.finditer(text)]
    assert Mask()(text) == _without(text, slow)


@settings(max_examples=500)
@given(text=st.lists(PIECES, max_size=25).map("".join))
def test_what_is_shown_of_a_url_hides_every_reading(text: str) -> None:
    spans = list(_spans(text))
    if "://" not in text and ":" in text:
        spans.append((text.index(":") + 1, text.rfind("@")))
    assert masked(text) == _without(text, spans)


def test_what_holds_passwords_is_not_printed_with_them() -> None:
    order = Order(
        study="tiny",
        arguments=[],
        environment={"PGPASSWORD": "hunter2"},
        folder="",
        workers=1,
        cpus=1.0,
        gpus=0.0,
        stays_here=False,
        timeout_seconds=None,
    )
    assert "hunter2" not in repr(order)


def test_a_masked_stream_is_a_stream() -> None:
    inner = io.StringIO()
    stream = cast(Any, Masked(inner, Mask(["hunter2"])))
    handler = logging.StreamHandler(stream)
    handler.handle(logging.makeLogRecord({"msg": "with %s", "args": ("hunter2",)}))
    stream.writelines(["a hunter2", " and hunter%32\n"])
    assert print("hunter2", file=stream, flush=True) is None
    assert inner.getvalue() == "with ***\na *** and ***\n***\n"
    assert not stream.isatty()
    with pytest.raises(TypeError):
        stream.write(b"hunter2")


FOREIGN = """
import logging, sys, threading, warnings
from dynamoe_search.cli.streams import mask_stderr
mask_stderr()
warnings.warn("with a b/c*d")
logging.getLogger("psycopg.pool").warning("with %s", {"password": "a b/c*d"})
try:
    raise OSError("with a b/c*d")
except OSError:
    logging.getLogger("fsspec").exception("at s3://key:a%20b%2Fc*d@bucket")
def die():
    raise ValueError("with a%20b/c*d")
thread = threading.Thread(target=die)
thread.start()
thread.join()
raise KeyError("postgresql://me:a b/c*d@host/x?password=a b/c*d")
"""


def test_what_libraries_print_has_no_password() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN, "--storage=postgresql://me:a%20b%2Fc*d@host/x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "KeyError" in done.stderr
    assert "Exception in thread" in done.stderr
    assert "c*d" not in done.stderr


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("", set()),
        ("/shared/dynamoe", set()),
        ("file:///shared/dynamoe", set()),
        ("s3://bucket/x", {"AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "FSSPEC_S3"}),
        ("gs://bucket/x", {"GOOGLE_APPLICATION_CREDENTIALS", "FSSPEC_S3"}),
        ("abfs://bucket/x", {"AZURE_STORAGE_ACCOUNT_NAME", "FSSPEC_S3"}),
        ("ftp://host/x", {"FSSPEC_S3"}),
    ],
)
def test_storage_gets_its_own_variables(place: str, names: set[str]) -> None:
    assert needed_by(place, ENVIRONMENT) == {name: ENVIRONMENT[name] for name in names}
