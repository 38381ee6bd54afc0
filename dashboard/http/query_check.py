"""Checks of a request's parameters that hold for every route, as FastAPI dependencies."""

from __future__ import annotations

from collections.abc import Collection
from typing import get_origin

from fastapi import Request
from fastapi.routing import APIRoute

from lineside.bus.wording import did_you_mean
from lineside.dashboard.http.problems import invalid_request


async def check_text(request: Request) -> None:
    """Refuse NUL characters: SQLite ends a pattern there, and PostgreSQL stores none."""
    query = request.query_params.multi_items()
    refused = [f"query.{name}" for name, value in query if "\0" in name + value]
    refused += [f"path.{name}" for name, value in request.path_params.items() if "\0" in str(value)]
    if refused:
        raise invalid_request([(where, "a NUL character is not allowed") for where in refused])


async def check_query(request: Request) -> None:
    """Refuse parameters that the route does not have, and second values of those that take one."""
    route = request.scope["route"]
    if not isinstance(route, APIRoute):
        return
    takes_several = {
        field.alias: get_origin(field.field_info.annotation) is list
        for field in route.dependant.query_params
    }
    refused = []
    for name in request.query_params:
        count = len(request.query_params.getlist(name))
        if name not in takes_several:
            refused.append((f"query.{name}", _unknown_text(name, takes_several)))
        elif count > 1 and not takes_several[name]:
            refused.append((f"query.{name}", f"expected one value, got {count}"))
    if refused:
        raise invalid_request(refused)


def _unknown_text(name: str, known: Collection[str]) -> str:
    if not known:
        return "unknown: this route has no query parameters"
    return f"unknown: expected {', '.join(known)}{did_you_mean(name, known)}"
