"""The templates' environment, and the policy that a page carries: it loads nothing and sends nothing.

Safety of a page, beside the escaping of every value by the templates: a policy of `default-src 'none'` that admits one
style and at most one script by hash, no inline style or handler attribute, and data only in an `application/json` block
in which `<`, `>`, `&` and `'` are escaped.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from posttrain.reports.visible_text import show_hidden

STYLES = ("report.css", "matrix.css", "monitors.css", "selection.css")
_STATUS_KINDS = {
    "finished": "good",
    "done": "good",
    "completed": "good",
    "cached": "good",
    "running": "live",
    "failed": "bad",
    "refused": "bad",
    "stopped": "bad",
    "terminated": "bad",
}


def render_page(template: str, *, script: str = "", **values: Any) -> str:
    """Return a self-contained page.

    Args:
        template: The template's file name; it gets `style`, `script` and `policy` beside the values.
        script: The file name of the page's one script; empty for none.
        values: What the template shows: text is escaped and its hidden characters are written out.
    """
    style, code = "".join(map(_read_asset, STYLES)), _read_asset(script) if script else ""
    # Our own files, pinned by the hashes in the policy.
    pinned = {"style": Markup(style), "script": Markup(code), "policy": _build_policy(style, code)}
    return _build_environment().get_template(template).render(**pinned, **values)


def _read_asset(name: str) -> str:
    return resources.files("posttrain.reports").joinpath("templates", name).read_text(encoding="utf-8")


def _build_policy(style: str, script: str) -> str:
    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    scripts = f"script-src {source(script)}; " if script else ""
    return f"default-src 'none'; style-src {source(style)}; {scripts}base-uri 'none'; form-action 'none'"


@cache
def _build_environment() -> jinja2.Environment:
    """Return the templates' environment: everything escaped, hidden characters shown, no name undefined."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_show,
    )
    environment.filters["status_kind"] = lambda status: _STATUS_KINDS.get(str(status), "plain")
    return environment


def _show(value: Any) -> Any:
    return show_hidden(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
