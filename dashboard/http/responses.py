"""Responses of the API: strict JSON, and problem documents for its description."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from lineside.dashboard.http.problems import MEDIA_TYPE, ProblemDocument


class StrictJSONResponse(JSONResponse):
    """A response whose content is already JSON text."""

    def render(self, content: str) -> bytes:
        return content.encode()


def json_response(document: BaseModel, status: int = 200) -> Response:
    """``document`` as strict JSON that no cache keeps; pydantic writes null for NaN and inf."""
    headers = {"cache-control": "no-store"}
    return StrictJSONResponse(document.model_dump_json(), status_code=status, headers=headers)


def error_responses(**kinds: str) -> dict[int | str, dict[str, Any]]:
    """The problem documents of a route, for OpenAPI: ``_404="No such run."``."""
    return {
        int(status.lstrip("_")): {
            "description": description,
            "content": {MEDIA_TYPE: {"schema": ProblemDocument.model_json_schema()}},
        }
        for status, description in kinds.items()
    }
