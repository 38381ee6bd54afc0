"""Renders the templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lineside.bus.wording import plural
from lineside.dashboard import formatting
from lineside.dashboard.auth.caller import caller
from lineside.dashboard.http.problems import Problem
from lineside.dashboard.http.site_root import site_root
from lineside.dashboard.http.static_files import Assets
from lineside.dashboard.pages import run_overview

FOLDER = Path(__file__).parents[1] / "templates"
_BREAK_AFTER = re.compile(r"([_./]+)(?=[^_./])")


class Renderer:
    """Renders templates with the filters of the dashboard; every value is escaped.

    ``alert_counts`` is the number of open alerts by severity, which each page shows.
    """

    def __init__(self, assets: Assets, alert_counts: Callable[[], Mapping[str, int]]) -> None:
        self._assets = assets
        self._alert_counts = alert_counts
        self._environment = Environment(
            loader=FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters.update(
            number=formatting.number,
            quantity=formatting.quantity,
            duration=formatting.duration,
            ago=formatting.ago,
            capitalize_first=formatting.capitalize_first,
            plural=plural,
            breakable=_breakable,
        )
        self._environment.globals.update(
            version=version("lineside"),
            section="",
            meaning=formatting.STATUS_MEANING,
            mark=run_overview.status_mark,
            plotly_style_ids=assets.plotly_style_ids,
        )

    def page(
        self, request: Request, template: str, *, code: int = 200, **context: Any
    ) -> HTMLResponse:
        """``template`` as a response; it also knows ``code``, ``now``, ``caller`` and ``root``."""
        context.setdefault("now", datetime.now(timezone.utc))
        root = site_root(request.scope)
        principal = caller(request)
        known = {
            "code": code,
            "caller": principal,
            "alert_counts": self._alert_counts() if principal else {},
            "root": root,
            "asset": lambda name: root + self._assets.path(name),
        }
        html = self._environment.get_template(template).render(context, **known)
        return HTMLResponse(html, status_code=code, headers={"cache-control": "no-store"})

    def error(self, request: Request, problem: Problem) -> HTMLResponse:
        """The page that a browser gets instead of a problem document."""
        return self.page(request, "error.html", code=problem.status, problem=problem)


def _breakable(name: str) -> Markup:
    """``name`` escaped, with a possible line break after each ``_``, ``.`` and ``/``."""
    return Markup(_BREAK_AFTER.sub(r"\1<wbr>", str(escape(name))))  # noqa: S704 - escaped in this line
