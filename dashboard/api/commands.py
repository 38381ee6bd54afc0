"""The REST API of commands and of the audit."""

from __future__ import annotations

import time
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from lineside.bus.errors import BusError, CommandError
from lineside.bus.protocol import commands as bus
from lineside.dashboard.api.models import AuditEntry, Command, CommandRequest, Listing
from lineside.dashboard.api.parameters import Cursor, Limit, RunId
from lineside.dashboard.auth.caller import issuer
from lineside.dashboard.backend.command_sender import CommandIdConflict, CommandSender
from lineside.dashboard.backend.store_access import StoreAccess
from lineside.dashboard.http.problems import Problem
from lineside.dashboard.http.responses import StrictJSONResponse, error_responses, json_response


def router(store: StoreAccess, sender: CommandSender) -> APIRouter:
    """``/api/runs/{run_id}/commands`` and ``/api/audit``."""
    routes = APIRouter(
        prefix="/api",
        tags=["commands"],
        default_response_class=StrictJSONResponse,
        responses=error_responses(
            _400="The cursor or the body cannot be read.",
            _422="A parameter or the body is invalid.",
            _503="The run history cannot be read now.",
        ),
    )

    @routes.get(
        "/runs/{run_id}/commands",
        response_model=Listing[Command],
        responses=error_responses(_404="No such run."),
    )
    def commands(run_id: RunId, limit: Limit = 50, cursor: Cursor = None) -> Response:
        """Commands to a run and their states, newest first."""
        page = store.history.commands(run_id, limit=limit, cursor=cursor)
        items = [Command.from_store(found) for found in page.items]
        return json_response(Listing[Command](items=items, next=page.next))

    @routes.post(
        "/runs/{run_id}/commands",
        status_code=202,
        response_model=Command,
        responses=error_responses(
            _404="No such run.",
            _409="The run takes no commands, or another command was sent under this id.",
            _413="The body is too large.",
            _503="No broker accepts the command, or the run history cannot be read.",
        ),
    )
    async def send_command(request: Request, run_id: RunId, body: CommandRequest) -> Response:
        """Send a command to a training. Answers once the command is stored, before it is applied.

        The same request with the same `id` is sent once and returns the state of the command.
        """
        return await to_thread.run_sync(
            _send, run_id, body, issuer(request), limiter=sender.threads
        )

    def _send(run_id: str, body: CommandRequest, issued_by: str) -> Response:
        history = store.history
        run = history.run(run_id)
        command = _command(body, issued_by)
        try:
            found = sender.find_sent(history, run.id, command)
            if found is None and (why := history.commands_unavailable_reason(run)):
                raise Problem(409, "not-training", "Not training", why, {"run": run.id})
            found = found or sender.send(history, run.id, command)
        except CommandIdConflict:
            detail = f"Another command was sent to run {run.id} under the id {command.id}."
            raise Problem(409, "other-command", "Another command", detail) from None
        except BusError as error:
            detail = f"{error}. Sent again with the id {command.id}, it is applied at most once."
            extra = {"id": command.id}
            raise Problem(503, "not-sent", "Command not sent", detail, extra) from error
        return json_response(Command.from_store(found), status=202)

    @routes.get("/audit", response_model=Listing[AuditEntry])
    def audit(
        run: Annotated[str | None, Query(description="Only entries about this run.")] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Response:
        """Commands and refusals with issuer and outcome, newest first."""
        page = store.history.audit(run=run, limit=limit, cursor=cursor)
        return json_response(Listing[AuditEntry].model_validate(page))

    return routes


def _command(body: CommandRequest, issued_by: str) -> bus.Command:
    given = {"id": body.id} if body.id else {}
    expires_at = time.time() + body.expires_in
    try:
        return bus.Command(body.op, body.args, body.reason, issued_by, expires_at, **given)
    except CommandError as error:
        errors = [{"where": "body", "message": str(error)}]
        title = "Invalid request"
        raise Problem(422, "invalid-request", title, str(error), {"errors": errors}) from error
