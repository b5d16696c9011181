"""The command that opens optuna-dashboard on a study: dashboard."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamoe_search.cli.options import Storage, Study
from dynamoe_search.cli.words import say

if TYPE_CHECKING:  # loads Optuna
    from wsgiref.simple_server import WSGIServer

    from dynamoe_search.store import Store

LOOPBACK = "127.0.0.1"
_USUAL_PORT, _PORTS_TRIED = 8080, 20
_NOTE_SECONDS = 10.0  # who ends while the dashboard is open has a note soon


def dashboard(
    study: Study,
    host: Annotated[
        str,
        typer.Option(
            "--host", help="Address to listen on; others than this machine's are for all."
        ),
    ] = LOOPBACK,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=0,
            max=65535,
            help="Port to listen on; 0 takes any. Default: 8080, or the next that is free.",
            show_default=False,
        ),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address and open no browser.")
    ] = False,
    storage: Storage = None,
) -> None:
    """Open optuna-dashboard on a study in the browser, until Ctrl-C; nothing but notes can be changed in it."""
    from dynamoe_search.errors import UsageError

    _require()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from dynamoe_search.store import Store

        with Store.open(storage, create=False) as store:
            store.study(study)
            try:
                server = _server(store, host, port)
            except OSError as error:
                where = f"{host}:{_USUAL_PORT if port is None else port}"
                raise UsageError(
                    f"the dashboard cannot listen on {where}: {error.strerror or error}; "
                    "name another --port or --host"
                ) from error
            _serve(store, study, server, host, no_browser=no_browser)
    except KeyboardInterrupt:
        raise typer.Exit from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _require() -> None:
    from importlib.util import find_spec

    from dynamoe_search.errors import UsageError

    if find_spec("optuna_dashboard") is None:
        raise UsageError(
            "the dashboard needs optuna-dashboard, which this environment lacks; "
            "install it with: pip install 'dynamoe-search[dashboard]'"
        )


def _server(store: "Store", host: str, port: int | None) -> "WSGIServer":
    """Returns a server that listens already; without a port, on the usual one or one of the next."""
    from socketserver import TCPServer, ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

    from optuna_dashboard import wsgi

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the library has it
            """Says nothing of every request."""

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True

        def server_bind(self) -> None:
            """Binds without asking a name server what this machine is called."""
            TCPServer.server_bind(self)
            self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
            self.setup_environ()

    if ":" in host:
        import socket

        Server.address_family = socket.AF_INET6
    ports = [port] if port is not None else range(_USUAL_PORT, _USUAL_PORT + _PORTS_TRIED)
    for one in ports:
        try:
            server = Server((host, one), Quiet)
        except OSError:
            if one == ports[-1]:
                raise
        else:
            server.set_app(Guard(wsgi(store.storage_for_optuna()), is_local=_is_local(host)))
            return server
    raise AssertionError("there is a port to try")


def _serve(
    store: "Store", study: str, server: "WSGIServer", host: str, *, no_browser: bool
) -> None:
    """Answers the browser, and writes notes, until somebody presses Ctrl-C."""
    from dynamoe_search.cli.dashboard_notes import NoteWriter

    writer = NoteWriter(store, study)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{server.server_port}/dashboard/studies/{writer.study_id}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    ended = threading.Event()  # set, not raised: nothing is cut short in the middle of a write
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        say(f"{url}  (Ctrl-C ends it)")
        sys.stdout.flush()
        if not _is_local(host):
            say(
                f"whoever reaches {host} can read all studies of this database and write notes into them",
                err=True,
            )
        if not no_browser and _has_browser():
            import webbrowser

            webbrowser.open(url)
        while not ended.is_set():
            writer.write(ended.is_set)
            ended.wait(_NOTE_SECONDS)
    finally:
        server.shutdown()
        server.server_close()


def _is_local(host: str) -> bool:
    return host in (LOOPBACK, "localhost", "::1")


def _has_browser() -> bool:
    """Whether somebody sits before a screen; elsewhere `webbrowser` may start one in the terminal."""
    has_screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.stdout.isatty() and (sys.platform in ("win32", "darwin") or bool(has_screen))


class Guard:
    """Lets requests through that read, or write a note; studies are changed by this program's own commands.

    Args:
        app: The dashboard.
        is_local: Whether it listens to this machine only. Then other names for it are refused, under which a page
            of somebody else could ask it (DNS rebinding).
    """

    def __init__(self, app: Callable[..., Iterable[bytes]], *, is_local: bool) -> None:
        self._app, self._is_local = app, is_local

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answers a request as WSGI has it."""
        reason = self._reason_against(environ)
        if reason is None:
            return self._app(environ, start_response)
        body = json.dumps({"reason": reason}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response("403 Forbidden", headers)
        return [body]

    def _reason_against(self, environ: dict[str, Any]) -> str | None:
        host = str(environ.get("HTTP_HOST", "")).rpartition(":")[0] or environ.get("HTTP_HOST", "")
        if self._is_local and not _is_local(host.strip("[]")):
            return "this dashboard answers to the name of this machine only"
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "").rstrip("/")
        is_note = method == "PUT" and path.endswith("/note")
        if method in ("GET", "HEAD") or is_note:
            return None
        return (
            "studies are changed by the commands of dynamoe-search only, such as resume and delete"
        )


COMMANDS: dict[str, Any] = {"dashboard": dashboard}
