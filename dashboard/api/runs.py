"""The REST API of the run history."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from lineside.dashboard.api.curve_models import Points, Series, Timing
from lineside.dashboard.api.models import (
    Account,
    Configuration,
    Event,
    Listing,
    Recorder,
    Run,
    RunChange,
    Stream,
)
from lineside.dashboard.api.parameters import (
    ANY_TEXT,
    MAX_INT64,
    AttemptName,
    Attempts,
    Axis,
    Cursor,
    End,
    PointCount,
    Producer,
    RunId,
    Sort,
    Start,
    Statuses,
)
from lineside.dashboard.backend.store_access import StoreAccess
from lineside.dashboard.backend.transit_reader import TransitReader
from lineside.dashboard.http.problems import Problem
from lineside.dashboard.http.responses import StrictJSONResponse, error_responses, json_response
from lineside.dashboard.loss_account import summarize
from lineside.dashboard.transit import add_spool
from lineside.store.history.history import STITCHED


def router(store: StoreAccess, transit: TransitReader) -> APIRouter:
    """Everything below ``/api/runs``."""
    routes = APIRouter(
        prefix="/api",
        tags=["runs"],
        default_response_class=StrictJSONResponse,
        responses=error_responses(
            _422="A parameter is invalid.", _503="The run history cannot be read now."
        ),
    )
    unknown = error_responses(_404="No such run.")
    unclear = error_responses(
        _400="A parameter names something that does not exist.", _404="No such run."
    )

    @routes.get("/runs", response_model=Listing[Run], responses=error_responses(_400="Bad cursor."))
    def runs(
        status: Statuses,
        project: Annotated[str | None, Query(description="Only runs of this project.")] = None,
        search: Annotated[
            str | None,
            Query(max_length=200, description="Text in id, name, project, note, tags or group."),
        ] = None,
        tag: Annotated[str | None, Query(description="Only runs with this tag.")] = None,
        group: Annotated[str | None, Query(description="Only runs of this group.")] = None,
        sort: Annotated[
            Sort, Query(description="A leading `-` reverses the order.")
        ] = "-started_at",
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        cursor: Cursor = None,
    ) -> Response:
        """A page of runs, filtered and sorted."""
        page = store.history.runs(
            statuses=status,
            project=project,
            search=search,
            tag=tag,
            group=group,
            sort=sort,
            limit=limit,
            cursor=cursor,
        )
        return json_response(Listing[Run].model_validate(page))

    @routes.get("/runs/{run_id}", response_model=Run, responses=unknown)
    def run(run_id: RunId) -> Response:
        """One run."""
        return json_response(Run.model_validate(store.history.run(run_id)))

    @routes.patch(
        "/runs/{run_id}",
        response_model=Run,
        responses=error_responses(
            _400="The body cannot be read.", _404="No such run.", _413="The body is too large."
        ),
    )
    def change_run(run_id: RunId, change: RunChange) -> Response:
        """Change a run's name, project, note, tags or group; fields left out stay."""
        fields = change.model_dump(exclude_unset=True, exclude_none=True)
        if fields:
            with store.writing() as writer:
                writer.update_run(run_id, **fields)
        return json_response(Run.model_validate(store.history.run(run_id)))

    @routes.delete(
        "/runs/{run_id}",
        status_code=204,
        response_class=Response,
        response_model=None,
        responses=error_responses(_404="No such run.", _409="It is still running."),
    )
    def delete_run(run_id: RunId) -> None:
        """Delete a run's history for good and free its disk space. Refused while it is running."""
        if store.history.run(run_id).is_running:
            detail = f"Run {run_id} is still running; delete it once it has ended."
            raise Problem(409, "still-running", "Still running", detail, {"run": run_id})
        with store.writing() as writer:
            writer.delete_run(run_id)

    @routes.get("/runs/{run_id}/metrics", response_model=Listing[Series], responses=unclear)
    def metrics(run_id: RunId, attempt: Attempts = STITCHED, producer: Producer = None) -> Response:
        """The metrics of attempts and of producers beside the training, with their last value."""
        found = store.history.metrics(run_id, attempt, producer=producer)
        items = [Series.model_validate(series) for series in found]
        return json_response(Listing[Series](items=items, next=None))

    @routes.get(
        f"/runs/{{run_id}}/metrics/{{name:{ANY_TEXT}}}",
        response_model=Points,
        responses=error_responses(
            _400="A parameter names something that does not exist.", _404="No such run or metric."
        ),
    )
    def points(
        run_id: RunId,
        name: Annotated[str, Path(description="May contain slashes.", examples=["eval/loss"])],
        points: PointCount = 1000,
        x: Axis = "step",
        start: Start = None,
        end: End = None,
        attempt: Attempts = STITCHED,
        producer: Annotated[
            str | None, Query(description="Default: `rank0` if it logged this metric.")
        ] = None,
        overview: Annotated[
            bool,
            Query(description="Add means of the whole curve, which do not depend on the zoom."),
        ] = False,
    ) -> Response:
        """The curve of one metric. Downsampling keeps all extremes, NaN and infinities."""
        curve = store.history.points(
            run_id,
            name,
            points=points,
            x=x,
            start=start,
            end=end,
            attempt=attempt,
            producer=producer,
            overview=overview,
        )
        if not curve.total:
            detail = f"Run {run_id} has logged no metric {name!r} in attempt={attempt}."
            raise Problem(404, "unknown-metric", "No such metric", detail, {"metric": name})
        return json_response(Points.model_validate(curve))

    @routes.get("/runs/{run_id}/timing", response_model=Timing, responses=unclear)
    def timing(
        run_id: RunId,
        points: PointCount = 1000,
        x: Axis = "step",
        start: Start = None,
        end: End = None,
        attempt: Attempts = STITCHED,
    ) -> Response:
        """Seconds that each step computed, and that training waited between steps."""
        found = store.history.timing(
            run_id, points=points, x=x, start=start, end=end, attempt=attempt
        )
        return json_response(Timing.model_validate(found))

    @routes.get("/runs/{run_id}/events", response_model=Listing[Event], responses=unclear)
    def events(
        run_id: RunId,
        after: Annotated[
            int, Query(ge=0, le=MAX_INT64, description="Only events with a greater `n`.")
        ] = 0,
        kinds: Annotated[
            str | None, Query(description="Only these kinds, separated by commas: `evaluate,save`.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> Response:
        """Lifecycle events in the order recorded. Step events are counted, not listed."""
        wanted = None if kinds is None else [kind for kind in kinds.split(",") if kind]
        page = store.history.events(run_id, after=after, kinds=wanted, limit=limit)
        return json_response(
            Listing[Event](items=[Event.from_store(row) for row in page.items], next=page.next)
        )

    @routes.get("/runs/{run_id}/config", response_model=Configuration, responses=unclear)
    def configuration(run_id: RunId, attempt: AttemptName = None) -> Response:
        """Arguments, model, versions and process, as published at the start of the run."""
        return json_response(Configuration.from_store(store.history.configuration(run_id, attempt)))

    @routes.get("/runs/{run_id}/account", response_model=Account, responses=unknown)
    def account(run_id: RunId) -> Response:
        """The loss account: by stream, and as text."""
        run, on_its_way = store.history.run(run_id), transit.transit(run_id)
        streams = add_spool(store.history.streams(run_id), on_its_way)
        summary = summarize(run, streams, on_its_way)
        items = [Stream.model_validate(stream) for stream in streams]
        return json_response(
            Account(
                verdict=summary.tone,
                headline=summary.headline,
                sentences=summary.sentences,
                streams=items,
                in_spool=on_its_way.in_spool,
                recorder=Recorder.from_lag(on_its_way.recorder),
            )
        )

    return routes
