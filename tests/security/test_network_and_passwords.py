"""Nothing listens, nothing calls, and no password is shown."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import STUDY, invoke

WATCHED = """
import sys
seen = []
names = ("socket.bind", "socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.__new__")
sys.addaudithook(lambda event, args: seen.append((event, str(args))) if event in names else None)
from dynamoe_search.cli.app import app
code = app(sys.argv[1:], standalone_mode=False)
assert not code, code
print("\\nseen:", seen)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["run {file} --storage {url} --quiet --device cpu", "list", "doctor", "check {file}"]
)
def test_nothing_listens_and_nothing_calls(command: str, tmp_path: Path, storage_url: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY.replace("trials = 6", "trials = 2").replace("epochs = 2", "epochs = 1"))
    words = command.format(file=path, url=storage_url).split()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "seen: []"


URLS = [
    "postgresql+psycopg://user:{}@127.0.0.1:1/studies",
    "postgresql://user:{}@127.0.0.1:1/studies",
    "mysql://user:{}@127.0.0.1:1/studies",
    "nosuch://user:{}@127.0.0.1/x",
    "postgresql+asyncpg://user:{}@127.0.0.1:1/studies",
    "sqlite://user:{}@host/x.db",
    "postgresql://127.0.0.1:1/x?user=u&password={}",
    "postgresql://user:{}@127.0.0.1:notaport/x",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("words", ["list", "run digits", "doctor --json", "--debug list"])
def test_passwords_are_never_shown(
    url: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for by_option, password in ((True, "s3cretive"), (False, "s3c/re tq:j%65")):
        filled = url.format(password)
        storage = ("--storage", filled) if by_option else ()
        if not by_option:
            monkeypatch.setenv("DYNAMOE_SEARCH_STORAGE", filled)
        result = invoke(*words.split(), *storage)
        assert result.exit_code in (1, 2)
        for part in ("s3c", "re tq", "re%20tq", "q:je", "q%3Aj", "j%65"):
            assert part not in result.output + result.stderr
        assert "user" in result.output + result.stderr or "***" in result.output
    assert list(tmp_path.iterdir()) == []
