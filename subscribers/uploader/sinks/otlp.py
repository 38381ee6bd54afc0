"""Sends batches as OTLP metrics over HTTP: a gauge for each metric, at the time of the training.

The SDK of OpenTelemetry would aggregate at the time of sending; so only its messages are used.
"""

from __future__ import annotations

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint

from lineside.subscribers.uploader.batch import Batch
from lineside.subscribers.uploader.sinks.receiver import Receiver
from lineside.subscribers.uploader.sinks.sink import Refused

STEP = "lineside.step"
"""The gauge of the step at each time: a point of OTLP has a time and no step."""
_MAX_ANSWER = 65536


class Otlp:
    """Points that the receiver reports as rejected are refused."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def send(self, batch: Batch) -> None:
        body = export_request(batch).SerializeToString(deterministic=True)
        answer = self._receiver.post(body, "application/x-protobuf", max_answer=_MAX_ANSWER)
        try:
            partial = ExportMetricsServiceResponse.FromString(answer).partial_success
        except Exception:  # noqa: BLE001 - of protobuf's; the status has confirmed the points
            return
        if partial.rejected_data_points:
            why = self._receiver.redact(partial.error_message)
            raise Refused(f"{partial.rejected_data_points} points were rejected: {why}")


def export_request(batch: Batch) -> ExportMetricsServiceRequest:
    """The points of ``batch``."""
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add()
    metrics.resource.attributes.extend(
        _attributes(
            {
                "service.name": "lineside",
                "lineside.run": batch.run,
                "lineside.name": batch.name,
                "lineside.project": batch.project,
            }
        )
    )
    scope = metrics.scope_metrics.add()
    scope.scope.name = "lineside"
    labels = _attributes({"producer": batch.producer, "attempt": batch.attempt})
    gauges: dict[str, list[NumberDataPoint]] = {}
    for point in batch.points:
        at = round(point.time * 1e9)
        for name, value in {**point.values, STEP: point.step}.items():
            number = NumberDataPoint(time_unix_nano=at, as_double=float(value), attributes=labels)
            gauges.setdefault(name, []).append(number)
    for name, numbers in gauges.items():
        metric = scope.metrics.add()
        metric.name = name
        metric.gauge.data_points.extend(numbers)
    return request


def _attributes(values: dict[str, str]) -> list[KeyValue]:
    return [
        KeyValue(key=name, value=AnyValue(string_value=value))
        for name, value in values.items()
        if value
    ]
