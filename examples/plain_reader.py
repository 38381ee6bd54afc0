"""Print every event on the bus as a line of JSON. Written from bus/PROTOCOL.md alone."""

import argparse
import json
import re
import struct
import time
import zlib
from collections.abc import Iterator

import msgpack
import zmq

FIELDS = ("version", "seq", "time", "monotonic_ns", "kind", "step", "epoch", "control", "data")
U64 = struct.Struct("<Q").pack
next_seq: dict[bytes, int] = {}  # the next seq of each stream
context = zmq.Context()
for option, value in ((zmq.LINGER, 0), (zmq.IMMEDIATE, 1), (zmq.MAXMSGSIZE, 16 << 20)):
    context.setsockopt(option, value)


def valid_bodies(blob: bytes) -> Iterator[bytes]:
    at = 0
    while at + 8 <= len(blob):
        length, checksum = struct.unpack_from("<II", blob, at)
        body = blob[at + 8 : at + 8 + length]
        if 0 < length == len(body) and zlib.crc32(body) == checksum:
            yield body
            at += 8 + length
        else:  # damaged on disk: on to the next place where a body may begin
            found = re.compile(b"[\x99-\x9f]").search(blob, at + 9)
            at = found.start() - 8 if found else len(blob)


def show(stream: bytes, **line: object) -> None:
    print(json.dumps({"stream": stream.decode(), **line}, default=repr), flush=True)


def show_events(offset: int, stream: bytes, first: int, count: int, blob: bytes) -> None:
    seq = next_seq.get(stream, first)
    for body in valid_bodies(blob):
        event = dict(zip(FIELDS, msgpack.unpackb(body), strict=False))
        if event["seq"] > seq:
            show(stream, missing=[seq, event["seq"]])
        if event["seq"] >= seq:  # or it was shown before
            show(stream, offset=offset, **event)
            seq = event["seq"] + 1
    if seq < first + count:
        show(stream, missing=[seq, first + count])
    next_seq[stream] = max(seq, first + count)


def read(address: str, name: str, streams: list[str]) -> None:
    socket = context.socket(zmq.DEALER)
    socket.connect(address)
    received_at, sent_at, subscribed = time.monotonic(), 0.0, False
    start, offset, credit, size, journal = b"cursor" if name else b"start", 0, 0, 0, b""
    while True:
        now = time.monotonic()
        if now - received_at > 5:  # every SUB and CUR has an answer: this connection is dead
            socket.close()
            socket, received_at, sent_at, subscribed = context.socket(zmq.DEALER), now, 0.0, False
            socket.connect(address)
        is_due = now - sent_at >= 1 or credit >= 32 or size >= 128 << 10
        if is_due and socket.poll(0, zmq.POLLOUT):
            sub = [b"SUB", name.encode(), start, U64(offset), msgpack.packb(streams), U64(64)]
            socket.send_multipart([b"CUR", U64(offset), U64(credit)] if subscribed else sub)
            sent_at, credit, size = now, 0, 0
        if not socket.poll(200):
            continue
        verb, *frames = socket.recv_multipart()
        numbers = [int.from_bytes(frame, "little") if len(frame) == 8 else 0 for frame in frames]
        received_at = time.monotonic()
        if verb == b"WHO":
            subscribed, sent_at = False, 0.0
        elif verb == b"ACK" and frames[2] == b"denied":
            raise SystemExit(frames[4].decode())
        elif verb == b"ACK" and frames[4]:  # the answer to a SUB names the journal
            subscribed = journal in (b"", frames[4]) and offset <= numbers[3]
            start, offset, credit = b"offset", numbers[1], 0
            if not subscribed:  # a journal made anew or put back: its offsets are others
                start, offset, sent_at = b"start", 0, 0.0
            journal = frames[4]
        elif verb == b"GAP" and subscribed:
            show(frames[0], missing=numbers[1:3])
            next_seq[frames[0]] = max(next_seq.get(frames[0], 0), numbers[2])
            offset, credit = numbers[3], credit + 1
        elif verb == b"EVT" and subscribed:
            show_events(numbers[0], frames[1], numbers[2], numbers[3], frames[4])
            offset, credit, size = numbers[0], credit + 1, size + 512 + len(frames[4])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("--name", default="", help="a durable name: go on where it last was")
    parser.add_argument("--stream", action="append", default=[], help="run[/producer[/attempt]]")
    given = parser.parse_args()
    read(given.address, given.name, given.stream)
