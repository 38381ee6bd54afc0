"""What each sink makes of a batch."""

from __future__ import annotations

import math

import pytest

from lineside.subscribers.uploader.batch import Batch
from lineside.subscribers.uploader.options import ReceiverOptions
from lineside.subscribers.uploader.sinks.influxdb import lines
from lineside.subscribers.uploader.sinks.receiver import Receiver
from lineside.subscribers.uploader.sinks.registry import make_sink
from lineside.subscribers.uploader.sinks.remote_write import snappy_block
from lineside.subscribers.uploader.sinks.sink import Refused, Unavailable
from tests.subscribers.uploader.kit import batch
from tests.support.http_receiver import http_receiver

STRANGE = {"eval/a b,c=d": 1, "nan": math.nan, "inf": -math.inf, "line\nbreak\\": 2.5}


def test_a_body_can_be_read_back_and_its_key_depends_on_all_of_it() -> None:
    made = batch({"loss": 1}, STRANGE)
    read = Batch.from_json(made.to_json())
    assert read.dump() == made.dump()
    assert math.isnan(read.points[1].values["nan"])
    assert read.key == made.key == batch({"loss": 1}, STRANGE).key
    others = [batch({"loss": 1}), batch({"loss": 1}, STRANGE, producer="judge")]
    assert len({made.key, *(one.key for one in others)}) == 3


def test_a_point_is_a_line_with_escaped_names_and_finite_floats() -> None:
    assert lines(batch(STRANGE, {"nan": math.nan}, name="a b=c", project="")) == (
        r"lineside,run=run-1,name=a\ b\=c,producer=rank0,attempt=20260101T000000-0000 "
        r"eval/a\ b\,c\=d=1.0,line\ break=2.5,step=0.0 1767225600000000000" + "\n"
    )


def test_a_name_that_influxdb_or_a_tag_has_is_that_of_no_field() -> None:
    values: dict[str, float] = {
        "time": 1,
        "name": 2,
        "step": 3,
        "C:\\a b\\": 4,
        "\n": 5,
        "x\\,y": 6,
    }
    [line] = lines(batch(values, name="D:\\")).splitlines()
    assert ",name=D:," in line
    fields = line.rpartition(" ")[0].rpartition("-0000 ")[2]
    assert fields == r"time_=1.0,name_=2.0,step=3.0,C:\a\ b=4.0,x\,y=6.0"


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 200_000])
def test_a_snappy_block_of_literals_has_the_bytes_in_it(size: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    block = snappy_block(content)
    length, shift, at = 0, 0, 0
    while True:
        byte = block[at]
        length, shift, at = length | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            break
    found = b""
    while at < len(block):
        assert block[at] == 61 << 2  # a literal, whose length less one is in two bytes
        count = int.from_bytes(block[at + 1 : at + 3], "little") + 1
        found += block[at + 3 : at + 3 + count]
        at += 3 + count
    assert (length, found) == (size, content)


def test_otlp_has_a_gauge_for_each_metric_at_the_time_of_the_training() -> None:
    service = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    with http_receiver() as receiver:
        options = ReceiverOptions("otlp", f"{receiver.url}/v1/metrics", key="k", gzip=False)
        make_sink(options).send(batch({"loss": 0.5}, {"loss": math.nan, "eval/loss": 1}))
        [request] = receiver.taken
    assert request.headers["content-type"] == "application/x-protobuf"
    [resource] = service.ExportMetricsServiceRequest.FromString(request.body).resource_metrics
    attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert attributes == {
        "service.name": "lineside",
        "lineside.run": "run-1",
        "lineside.name": "first run",
        "lineside.project": "p",
    }
    metrics = {one.name: one.gauge.data_points for one in resource.scope_metrics[0].metrics}
    values = {name: [one.as_double for one in points] for name, points in metrics.items()}
    assert set(values) == {"loss", "eval/loss", "lineside.step"}
    assert values["lineside.step"] == [0, 10]
    assert values["loss"][0] == 0.5
    assert math.isnan(values["loss"][1])
    assert metrics["eval/loss"][0].time_unix_nano == 1_767_225_601_000_000_000
    labels = {one.key: one.value.string_value for one in metrics["loss"][0].attributes}
    assert labels == {"producer": "rank0", "attempt": "20260101T000000-0000"}


def test_points_that_otlp_rejects_beside_a_success_are_refused() -> None:
    service = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    answer = service.ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points = 2
    answer.partial_success.error_message = "too old"
    with http_receiver((200, {}, answer.SerializeToString()), (200, {}, b"\xff")) as receiver:
        sink = make_sink(ReceiverOptions("otlp", receiver.url))
        with pytest.raises(Refused, match="2 points were rejected: too old"):
            sink.send(batch({"loss": 0.5}))
        sink.send(batch({"loss": 0.5}))  # an answer of another form


def test_no_reason_names_a_secret() -> None:
    key, token, password, header = "key-5b1d2c77", "token-9f2e", "pass word", "header-77aa"
    hook, scheme = "0123456789abcdef", "scheme-4e1b"
    body = f"{key} {token} {password} {header} {hook} {scheme} /hooks end".encode()
    with http_receiver((400, {}, body), (500, {}, body)) as server:
        address = server.url.removeprefix("http://")
        options = ReceiverOptions(
            "http",
            f"http://user-7:pass%20word@{address}/hooks/{hook}?db=x&token={token}",
            key=key,
            headers={"X-Other": header, "X-Scheme": f"Bearer {scheme}"},
        )
        for kind in (Refused, Unavailable):
            with pytest.raises(kind) as caught:
                Receiver(options).post(b"x", "text/plain")
            assert str(caught.value).endswith(f": {' '.join(['<redacted>'] * 6)} /hooks end")
        assert server.requests[0].path == f"/hooks/{hook}?db=x&token={token}"
        assert server.requests[0].headers["authorization"] == f"Bearer {key}"
    assert key not in repr(options)
    with http_receiver(204, (400, {}, b"Basic dXNlcjpwdw==, dXNlcjpwdw==")) as server:
        address = server.url.removeprefix("http://")
        receiver = Receiver(ReceiverOptions("influxdb", f"http://user:pw@{address}/"))
        receiver.post(b"x", "text/plain")
        assert server.taken[0].headers["authorization"] == "Basic dXNlcjpwdw=="
        with pytest.raises(Refused, match=r"Bad Request: <redacted>, <redacted>$"):
            receiver.post(b"x", "text/plain")
