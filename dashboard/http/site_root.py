"""Addresses of the dashboard, relative to the request.

A proxy may serve the dashboard below a path, as JupyterHub does (``/user/ada/proxy/7431/``), and
most do not name that path in a header. So pages, redirects and scripts use relative addresses only.
Scripts take the root from their own address; see static/site.js.
"""

from __future__ import annotations

from starlette.types import Scope


def site_root(scope: Scope) -> str:
    """The root of the dashboard, relative to the address of the request: ``./`` or ``../../``."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    return "../" * (path.count(b"/") - 1) or "./"
