"""The page: everything of a report in one HTML file that loads nothing."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from dynamoe_search import __version__
from dynamoe_search.report import colours

_TEMPLATES = Path(__file__).parent / "templates"


def render(
    template: str, content: Mapping[str, Any], plots: Mapping[str, Any], experts: Any
) -> str:
    """Returns a page as HTML; every text in `content` is escaped.

    The page carries a content security policy that lets a browser run these scripts and no others, and fetch nothing.

    Args:
        template: `study.html` or `comparison.html`.
        content: What the template shows.
        plots: Plotly figures by name.
        experts: What `plots.experts` returns, by trial.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [_script(get_plotlyjs()), _script((_TEMPLATES / "page.js").read_text("utf-8"))]
    palettes = {"light": colours.variables(False), "dark": colours.variables(True)}
    return environment.get_template(template).render(
        **content,
        plots=plots,
        version=__version__,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        css=Markup((_TEMPLATES / "page.css").read_text("utf-8")),  # noqa: S704 - our own file
        scripts=scripts,
        policy=_policy(scripts),
        plots_json=_json(plots),
        palettes_json=_json(palettes),
        experts_json=_json(experts),
    )


def _script(text: str) -> Markup:
    """Returns a script of ours or of plotly for the inside of a `script` element, which ends at `</script`."""
    return Markup(text.replace("</script", "<\\/script").replace("<!--", "<\\!--"))  # noqa: S704


def _json(value: Any) -> Markup:
    """Returns JSON that cannot leave a `script` element, whatever texts are in it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - nothing is left in it that HTML could read


def _policy(scripts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
    )
