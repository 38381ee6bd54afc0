"""How the REST API answers: documents as strict JSON, and what its description says of errors."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from lineside.dashboard.api.models import ProblemDocument
from lineside.dashboard.http.problems import MEDIA_TYPE


class StrictJSONResponse(JSONResponse):
    """Strict JSON, given as text; may be asked for again at any time."""

    def render(self, content: str) -> bytes:
        return content.encode()


def json_response(document: BaseModel, status: int = 200) -> Response:
    """``document`` as strict JSON: pydantic writes null for what is not finite."""
    headers = {"cache-control": "no-store"}
    return StrictJSONResponse(document.model_dump_json(), status_code=status, headers=headers)


def error_responses(**kinds: str) -> dict[int | str, dict[str, Any]]:
    """The problem documents a route may answer with, for OpenAPI: ``_404="No such run."``."""
    return {
        int(status.lstrip("_")): {
            "description": description,
            "content": {MEDIA_TYPE: {"schema": ProblemDocument.model_json_schema()}},
        }
        for status, description in kinds.items()
    }
