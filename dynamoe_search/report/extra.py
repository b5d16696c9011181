"""Whether the libraries of the extra `report` are there. Imports none of them."""

from importlib.util import find_spec

from dynamoe_search.errors import UsageError

LIBRARIES = ("plotly", "matplotlib", "pyarrow", "jinja2")


def require() -> None:
    """Makes sure that a report can be written.

    Raises:
        UsageError: A library is missing; the message has the command that installs it.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"a report needs {', '.join(missing)}, which this environment lacks; "
            "install them with: pip install 'dynamoe-search[report]'"
        )
