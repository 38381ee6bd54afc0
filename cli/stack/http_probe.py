"""Probes a dashboard's health endpoints over HTTP."""

from __future__ import annotations

import http.client
import json
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit


def get_json(url: str, timeout: float = 5.0) -> tuple[int, Any]:
    """The status and the JSON body of a GET; the body is None if it is not JSON.

    Raises:
        OSError: there is no HTTP answer.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request("GET", parts.path or "/", headers={"Accept": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"not an HTTP answer: {error!r}") from error
    finally:
        connection.close()
    try:
        return answer.status, json.loads(body)
    except ValueError:
        return answer.status, None


def http_problem(url: str, timeout: float = 2.0) -> str | None:
    """None if a GET of ``url`` answers 200, else a sentence on the failure."""
    try:
        status, body = get_json(url, timeout)
    except OSError as error:
        return f"{url} does not answer ({error})"
    if status == HTTPStatus.OK:
        return None
    checks = body.get("checks") if isinstance(body, dict) else None
    failing = [c["detail"] for c in checks.values() if not c["ok"]] if checks else []
    return " ".join(
        [f"{url} answers {status}:" if failing else f"{url} answers {status}", *failing]
    )
