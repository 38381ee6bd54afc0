"""Makes the sink of an upload."""

from __future__ import annotations

from lineside.bus.errors import MissingExtra
from lineside.subscribers.uploader.options import ReceiverOptions
from lineside.subscribers.uploader.sinks.influxdb import InfluxDb
from lineside.subscribers.uploader.sinks.json_push import JsonPush
from lineside.subscribers.uploader.sinks.receiver import Receiver
from lineside.subscribers.uploader.sinks.remote_write import RemoteWrite
from lineside.subscribers.uploader.sinks.sink import Sink


def make_sink(options: ReceiverOptions) -> Sink:
    """The sink that ``options`` name.

    Raises:
        MissingExtra: it is ``otlp``, and the extra of that name is not installed.
    """
    if options.sink == "influxdb":
        return InfluxDb(Receiver(options, scheme="Token"))
    receiver = Receiver(options)
    if options.sink == "remote-write":
        return RemoteWrite(receiver)
    if options.sink == "otlp":
        try:
            from lineside.subscribers.uploader.sinks.otlp import Otlp
        except ModuleNotFoundError as error:
            package = error.name or "opentelemetry-proto"
            raise MissingExtra("an upload with the sink otlp", package, "otlp") from None
        return Otlp(receiver)
    return JsonPush(receiver)
