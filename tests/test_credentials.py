"""No secret is shown, wherever it stands; a storage of files gets the variables of its kind and no others."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.credentials import masked, needed_by, secrets_in, without

SECRETS = st.text(st.sampled_from("abcXYZ019+=_.%~-"), min_size=4, max_size=40)
ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": "one",
    "AWS_ENDPOINT_URL": "http://minio:9000",
    "AZURE_STORAGE_ACCOUNT_NAME": "two",
    "FSSPEC_S3": '{"key": "three"}',
    "GOOGLE_APPLICATION_CREDENTIALS": "/keys/four.json",
    "HOME": "/home/me",
    "PATH": "/bin",
}


@given(secret=SECRETS, around=st.text(max_size=20))
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("AWS_SECRET_ACCESS_KEY", "{}"),
        ("AWS_SESSION_TOKEN", "{}"),
        ("AZURE_STORAGE_CONNECTION_STRING", "{}"),
        ("FSSPEC_FTP_PASSWORD", "{}"),
        ("PGPASSWORD", "{}"),
        ("DYNAMOE_SEARCH_STORAGE", "postgresql+psycopg://me:{}@host/studies"),
        ("DYNAMOE_SEARCH_LOGS", '["mlflow=https://me:{}@host/x", "tensorboard=runs"]'),
    ],
)
def test_no_secret_is_left_in_a_message(name: str, form: str, secret: str, around: str) -> None:
    secrets = secrets_in({name: form.format(secret), "PATH": "/bin"})
    assert secret in secrets
    assert secret not in without(f"{around}{secret}{around}", secrets).replace(around, "")


@given(secret=SECRETS)
def test_secrets_in_json_are_found(secret: str) -> None:
    text = json.dumps({"endpoint_url": "http://minio:9000", "client_kwargs": {"secret": secret}})
    assert secrets_in({"FSSPEC_S3": text}) >= {secret}
    assert "http://minio:9000" not in secrets_in({"FSSPEC_S3": text})


def test_what_is_no_secret_stays() -> None:
    harmless = {"TOKENIZERS_PARALLELISM": "false", "HOME": "/home/me", "FSSPEC_S3": "{", "X": "{1:"}
    assert secrets_in(harmless) == frozenset()
    assert secrets_in({"PGPASSWORD": "me"}) == frozenset()  # too short to be looked for
    assert masked("postgresql://me@host/studies") == "postgresql://me@host/studies"


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
