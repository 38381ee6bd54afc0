"""Commands on their way in: read off the bus, put into the inbox of the training they are for.

The whole conversation about a run, commands and answers, lies in its ``control`` streams. So who
reads them from their start knows what is still to be done, however often anybody was restarted.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lineside.bus.protocol import commands, wire
from lineside.bus.protocol.events import Event, Stream
from lineside.bus.protocol.messages import DENIED, OFFSET, OK, START, Ack, Cur, Evt, GapMessage, Sub
from lineside.emitter.shipper.link import Link
from lineside.emitter.spool import inbox
from lineside.emitter.spool.vitals import PageView

log = logging.getLogger("lineside")

_CREDIT = 256
_ASK_AGAIN_SECONDS = 2.0


@dataclass
class _Desk:
    """The inbox of one attempt, in the folder of its control stream."""

    folder: Path
    heard: int = 0  # up to this seq of its own control stream everything has been read
    delivered: set[str] = field(default_factory=set)
    end: int | None = None  # the seq at which its control stream ended

    @property
    def is_open(self) -> bool:
        """Whether it takes commands: what was said before it began has been read by now."""
        return self.heard > 0 and self.end is None


@dataclass
class _Talk:
    """What was said about one run."""

    waiting: dict[str, bytes] = field(default_factory=dict)  # commands without a final answer
    taken: set[str] = field(default_factory=set)  # by a training, as it said
    answered: set[str] = field(default_factory=set)
    desks: dict[str, _Desk] = field(default_factory=dict)  # by attempt, the newest last

    def settle(self, name: str) -> None:
        self.answered.add(name)
        self.waiting.pop(name, None)


class Orders:
    """Subscribes over ``link`` to the control streams of the runs that are trained here.

    ``refuse`` publishes for a run that a command, of which it is given ``id`` and ``why``, was not
    applied.
    """

    def __init__(self, link: Link, refuse: Callable[[str, dict[str, str]], object]) -> None:
        self._link = link
        self._refuse = refuse
        self._talks: dict[str, _Talk] = {}
        self._closed: set[tuple[str, str]] = set()  # runs and attempts
        self._journal = ""
        self._offset = 0
        self._is_subscribed = self._is_asking = False
        self._ask_at = 0.0
        self._credit = 0
        self._denied = ""

    def open(self, stream: Stream, folder: Path) -> None:
        """Training takes commands in ``folder``, that of its control ``stream``."""
        talk = self._talks.setdefault(stream.run, _Talk())
        if stream.attempt not in talk.desks:
            talk.desks[stream.attempt] = _Desk(folder)
            self._closed.discard((stream.run, stream.attempt))  # it was taken for gone
            self._start_again()
        self._deliver(talk)  # what could not be handed over before

    def end(self, stream: Stream, folder: Path, seq: int) -> None:
        """That training is over, and its control stream, ``seq`` events long, confirmed."""
        if (stream.run, stream.attempt) in self._closed:
            return
        talk = self._talks.setdefault(stream.run, _Talk())
        desk = talk.desks.get(stream.attempt)
        if desk is None:
            # It went together with the shipper that had opened it; what it took is in the journal.
            desk = talk.desks[stream.attempt] = _Desk(folder)
            self._start_again()
        desk.end = seq
        self._close(talk, stream.run, stream.attempt, desk)

    def turn(self, now: float) -> None:
        """Ask for what is to be read, and give back credit."""
        if self._is_subscribed:
            self._give_credit()
        elif self._talks and now >= self._ask_at:
            runs = tuple(
                f"{run}/{commands.PRODUCER}" for run, talk in self._talks.items() if talk.desks
            )
            start = OFFSET if self._offset else START
            self._is_asking = bool(runs) and self._link.send(
                Sub("", start, self._offset, runs, _CREDIT)
            )
            self._ask_at = now + _ASK_AGAIN_SECONDS

    def on_ack(self, ack: Ack) -> None:
        """The answer to a subscription."""
        if self._is_asking and ack.status == DENIED and ack.text != self._denied:
            self._denied = ack.text
            log.error("shipper: no commands can be taken: %s", ack.text)
        if not (self._is_asking and ack.text and ack.status == OK):
            return
        self._is_asking = False
        if self._journal not in ("", ack.text) or ack.head < self._offset:
            self._start_again()
        else:
            self._is_subscribed = True
        self._journal = ack.text

    def on_who(self) -> None:
        """The broker does not know the subscription (any more)."""
        self._is_subscribed = self._is_asking = False
        self._credit, self._ask_at = 0, 0.0

    def on_delivery(self, message: Evt | GapMessage) -> None:
        """What was said about a run."""
        if not self._is_subscribed:
            return
        self._offset = message.offset
        self._credit += 1
        if self._credit >= _CREDIT // 2:  # a long conversation is not to wait for our turns
            self._give_credit()
        stream = message.stream
        talk = self._talks.get(stream.run) if stream else None
        if talk is None or stream is None:
            return
        desk = talk.desks.get(stream.attempt)
        if isinstance(message, Evt):
            for body in wire.bodies(message.blob):
                with contextlib.suppress(ValueError):
                    self._hear(talk, desk, wire.decode_event(body))
        if desk is not None:
            if isinstance(message, Evt):
                desk.heard = max(desk.heard, message.first_seq + message.count)
            else:
                desk.heard = max(desk.heard, message.end)
            self._close(talk, stream.run, stream.attempt, desk)
        self._deliver(talk)

    def _give_credit(self) -> None:
        if self._credit and self._link.send(Cur(0, self._credit)):
            self._credit = 0

    def _start_again(self) -> None:
        self.on_who()
        self._offset = 0

    def _hear(self, talk: _Talk, desk: _Desk | None, event: Event) -> None:
        name = str((event.data or {}).get("id") or "")
        if event.kind == commands.COMMAND and name and name not in talk.answered:
            talk.waiting.setdefault(name, _record(event))
        elif event.kind == commands.DELIVERED:
            talk.taken.add(name)
            if desk is not None:
                desk.delivered.add(name)
        elif event.kind in commands.FINAL:
            talk.settle(name)

    def _deliver(self, talk: _Talk) -> None:
        given = [talk.taken, *(desk.delivered for desk in talk.desks.values())]
        new = [name for name in talk.waiting if not any(name in names for names in given)]
        desk = next((desk for desk in reversed(talk.desks.values()) if desk.is_open), None)
        page = PageView.open(desk.folder) if new and desk else None
        if desk is None or page is None:
            return
        try:
            page.tell_inbox(inbox.deliver(desk.folder, [talk.waiting[name] for name in new]))
            desk.delivered.update(new)
        except OSError as error:
            log.warning("shipper: commands cannot be handed over in %s: %s", desk.folder, error)
        finally:
            page.close()

    def _close(self, talk: _Talk, run: str, attempt: str, desk: _Desk) -> None:
        """Refuse what an ended training took and did not answer; the rest waits for the next."""
        if desk.end is None or desk.heard < desk.end:
            return
        del talk.desks[attempt]
        self._closed.add((run, attempt))
        for name in desk.delivered & talk.taken & talk.waiting.keys():
            talk.settle(name)
            why = "training ended without an answer to it; whether it was applied is not known"
            self._refuse(run, {"id": name, "why": why})


def _record(event: Event) -> bytes:
    return wire.Encoder().encode(
        event.seq,
        event.time,
        event.monotonic_ns,
        event.kind,
        event.step,
        event.epoch,
        event.control,
        event.data,
    )
