"""The REST API of checkpoints: the list, requests to the archiver, and the download."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Path, Request
from fastapi.responses import Response, StreamingResponse

from lineside.bus.errors import BusError
from lineside.bus.protocol import checkpoints as bus
from lineside.dashboard.api.checkpoint_models import Checkpoint
from lineside.dashboard.api.models import Listing
from lineside.dashboard.api.parameters import RunId
from lineside.dashboard.auth.caller import issuer
from lineside.dashboard.backend.archive_access import ArchiveAccess
from lineside.dashboard.backend.command_sender import CommandSender
from lineside.dashboard.backend.store_access import StoreAccess
from lineside.dashboard.http.problems import Problem
from lineside.dashboard.http.responses import StrictJSONResponse, error_responses, json_response
from lineside.store.database.values import to_datetime
from lineside.store.history import checkpoints as history

CheckpointId = Annotated[str, Path(description="The checkpoint's id.", max_length=64)]
Op = Annotated[
    Literal["pin", "unpin", "delete", "verify"],
    Path(description="; ".join(f"`{op}`: {text}" for op, text in bus.OPS.items())),
]
_IN_ARCHIVE_OPS = (bus.DELETE, bus.VERIFY)


def router(store: StoreAccess, sender: CommandSender, archive: ArchiveAccess) -> APIRouter:
    """``/api/runs/{run_id}/checkpoints``."""
    routes = APIRouter(
        prefix="/api/runs/{run_id}/checkpoints",
        tags=["checkpoints"],
        default_response_class=StrictJSONResponse,
        responses=error_responses(
            _404="No such run or checkpoint.",
            _422="A parameter is invalid.",
            _503="The run history cannot be read now.",
        ),
    )

    @routes.get("", response_model=Listing[Checkpoint])
    def checkpoints(run_id: RunId) -> Response:
        """Checkpoints of all attempts in the order saved, and what the archive has of each."""
        items = [Checkpoint.from_store(found) for found in store.history.checkpoints(run_id)]
        return json_response(Listing[Checkpoint](items=items, next=None))

    @routes.get("/{checkpoint_id}", response_model=Checkpoint)
    def checkpoint(run_id: RunId, checkpoint_id: CheckpointId) -> Response:
        """One checkpoint; of several saves of it the newest."""
        return json_response(Checkpoint.from_store(store.history.checkpoint(run_id, checkpoint_id)))

    @routes.get(
        "/{checkpoint_id}/download",
        response_class=StreamingResponse,
        response_model=None,
        responses={
            200: {"content": {"application/x-tar": {}}, "description": "The files, as a tar."},
            **error_responses(
                _409="The archive does not have it.",
                _502="It is damaged in the archive.",
                _503="The archive or the run history cannot be read.",
            ),
        },
    )
    def download(run_id: RunId, checkpoint_id: CheckpointId) -> Response:
        """The archived checkpoint as a tar. Each part is verified before it is sent."""
        found = store.history.checkpoint(run_id, checkpoint_id)
        if not found.is_archived or found.archive is None:
            raise _not_archived(run_id, found)
        tar = archive.open_tar(run_id, found.archive)
        return StreamingResponse(
            tar,
            media_type="application/x-tar",
            headers={
                "content-length": str(tar.size),
                "content-disposition": f'attachment; filename="{run_id}-{tar.folder}.tar"',
                "cache-control": "no-store",
                "content-encoding": "identity",  # weights do not compress
            },
        )

    @routes.post(
        "/{checkpoint_id}/{op}",
        status_code=202,
        response_model=Checkpoint,
        responses=error_responses(
            _409="No archiver has reported about it, or the archive does not have it.",
            _503="No broker accepts it, or the run history cannot be read.",
        ),
    )
    async def ask(request: Request, run_id: RunId, checkpoint_id: CheckpointId, op: Op) -> Response:
        """Ask the archiver to pin, unpin, delete or verify a checkpoint in the archive.

        Answers with the checkpoint once the request is stored, before it is done: `requested` is
        null again when the archiver has answered, and `refused` is why it did not do it.
        """
        return await to_thread.run_sync(
            _ask, run_id, checkpoint_id, op, issuer(request), limiter=sender.threads
        )

    def _ask(run_id: str, checkpoint_id: str, op: str, by: str) -> Response:
        found = store.history.checkpoint(run_id, checkpoint_id)
        if found.state is None:
            detail = (
                f"No archiver has reported about step {found.step:,} of run {run_id}; "
                "`lineside archiver` archives checkpoints."
            )
            raise Problem(409, "no-archiver", "No archiver", detail, {"run": run_id})
        if op in _IN_ARCHIVE_OPS and not found.is_archived:
            raise _not_archived(run_id, found)
        asked = bus.CheckpointRequest(op, found.path, found.attempt, found.step, by)
        try:
            sender.respond(run_id, asked)
        except BusError as error:
            detail = f"{error}. It may be sent again."
            raise Problem(503, "not-sent", "Not sent", detail) from error
        found = replace(
            found,
            requested=op,
            requested_by=by,
            requested_at=to_datetime(time.time()),
            refused=None,
        )
        return json_response(Checkpoint.from_store(found), status=202)

    return routes


def _not_archived(run_id: str, found: history.Checkpoint) -> Problem:
    state = found.state or "not known to an archiver"
    why = f": {found.why}" if found.why else ""
    detail = f"Step {found.step:,} of run {run_id} is not in the archive; it is {state}{why}."
    return Problem(409, "not-archived", "Not in the archive", detail, {"state": found.state})
