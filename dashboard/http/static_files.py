"""Static files, held in memory and served under addresses that contain a digest.

All files of the dashboard share one digest as a folder (``/static/<digest>/run.js``), so ES modules
import each other by relative paths and browsers may cache them for ever. plotly.js comes from the
installed plotly package and has its own digest.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lineside.bus.errors import MissingExtra
from lineside.dashboard.http.problems import Problem

FOLDER = Path(__file__).parents[1] / "static"
PLOTLY = "plotly.min.js"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_STYLE_ELEMENT_ID = re.compile(rb'getElementById\("([0-9a-f]{64})"\)')
_CACHE_FOREVER = "public, max-age=31536000, immutable"


@dataclass
class Asset:
    """One file: its bytes, and the compressed bytes once a client requested them."""

    media_type: str
    digest: str
    body: bytes
    _gzipped: bytes | None = field(default=None, repr=False)

    def gzipped(self) -> bytes:
        if self._gzipped is None:
            self._gzipped = gzip.compress(self.body, compresslevel=6, mtime=0)
        return self._gzipped


class Assets:
    """The static files by name."""

    def __init__(self, assets: dict[str, Asset]) -> None:
        self._assets = assets
        self.plotly_style_ids = [
            name.decode() for name in _STYLE_ELEMENT_ID.findall(assets[PLOTLY].body)
        ]
        """Ids of the style elements for maps that plotly.js makes unless the page has the ids.

        The content security policy forbids them, and a browser reports each.
        """

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Assets:
        """Every file of ``folder`` and plotly.js.

        Raises:
            MissingExtra: plotly is not installed, or without its JavaScript.
        """
        bodies = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        own_digest = _digest(*bodies.values())
        assets = {
            name: Asset(MEDIA_TYPES[Path(name).suffix], own_digest, body)
            for name, body in bodies.items()
        }
        plotly = plotly_script().read_bytes()
        assets[PLOTLY] = Asset(MEDIA_TYPES[".js"], _digest(plotly), plotly)
        return cls(assets)

    def path(self, name: str) -> str:
        """The path of file ``name`` below the root of the dashboard."""
        return f"static/{self._assets[name].digest}/{name}"

    def router(self) -> APIRouter:
        """The route of the files."""
        router = APIRouter(include_in_schema=False)

        @router.get("/static/{digest}/{name}")
        def static(request: Request, digest: str, name: str) -> Response:
            asset = self._assets.get(name)
            if asset is None:
                raise Problem(404, "not-found", "Not found", f"There is no file {name!r}.")
            # A page open during an upgrade requests the old digest; it gets the new file, uncached.
            headers = {
                "cache-control": _CACHE_FOREVER if digest == asset.digest else "no-cache",
                "vary": "accept-encoding",
            }
            if "gzip" in request.headers.get("accept-encoding", ""):
                headers["content-encoding"] = "gzip"
                return Response(asset.gzipped(), media_type=asset.media_type, headers=headers)
            return Response(asset.body, media_type=asset.media_type, headers=headers)

        return router


def plotly_script() -> Path:
    """plotly.js in the installed plotly package, found without importing it.

    Raises:
        MissingExtra: it is not installed.
    """
    found = importlib.util.find_spec("plotly")
    for folder in (found.submodule_search_locations or []) if found else []:
        script = Path(folder) / "package_data" / PLOTLY
        if script.is_file():
            return script
    raise MissingExtra("the dashboard's charts", "plotly", "server")


def _digest(*bodies: bytes) -> str:
    sha = hashlib.sha256()
    for body in bodies:
        sha.update(body)
    return sha.hexdigest()[:16]
