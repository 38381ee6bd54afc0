"""The errors that Lineside raises.

LinesideError
├── UsageError              exit code 2: the request makes no sense
│   ├── SettingsError
│   ├── AddressError
│   ├── KeyNameError
│   ├── StreamNameError
│   ├── RunNotFound
│   ├── AlertNotFound
│   ├── CheckpointNotFound
│   ├── CommandError
│   ├── CallbackConfigError
│   └── MissingExtra
├── WireError               bytes that the protocol does not allow
│   ├── CorruptRecord
│   └── BadMessage
├── BusError                exit code 1: the bus cannot do it now
│   ├── BrokerUnreachable
│   │   └── KeyRefused
│   ├── AddressInUse
│   ├── ReaderDenied
│   └── JournalError
│       ├── JournalDamaged
│       └── JournalFull
└── StoreError              exit code 1
    ├── StoreTooNew
    ├── StoreUnavailable
    ├── StoreDamaged
    └── StoreRolledBack

Each message is one sentence or two with the value that was bad, what was expected and what to do,
so a command line prints ``str(error)`` and nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence


class LinesideError(Exception):
    """Base of all; ``exit_code`` is what a command ends with."""

    exit_code = 1


class UsageError(LinesideError):
    """The request makes no sense; nothing was done."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting has a value that cannot be used."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"{name}={str(value)!r} cannot be used: {expected}")
        self.name = name
        self.value = value


class AddressError(UsageError):
    """A broker address that does not parse or is not allowed."""

    def __init__(self, address: str, expected: str) -> None:
        super().__init__(f"broker address {address!r} cannot be used: {expected}")
        self.address = address


class KeyNameError(UsageError):
    """A key or token that cannot be made, or does not exist."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"key {name!r}: {why}")
        self.name = name


class StreamNameError(UsageError):
    """A stream name that is not ``run/producer/attempt``."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} is not a stream: expected run/producer/attempt, "
            "each 1 to 128 of A-Z a-z 0-9 . _ - and not beginning with . or -"
        )
        self.name = name


class RunNotFound(UsageError):
    """The store has no run with this id or name."""

    def __init__(self, run: str, known: tuple[str, ...] = ()) -> None:
        hint = f"; the newest are {', '.join(known)}" if known else ""
        super().__init__(f"no run {run!r} in the store{hint}; `lineside runs` lists them")
        self.run = run


class AlertNotFound(UsageError):
    """The store has no such alert, or no such mute that holds."""

    def __init__(self, what: str, wanted: str) -> None:
        super().__init__(f"no {what} {wanted!r} in the store; `lineside alerts --all` lists them")
        self.wanted = wanted


class CheckpointNotFound(UsageError):
    """The run has no checkpoint with this id."""

    def __init__(self, run: str, wanted: str) -> None:
        super().__init__(
            f"no checkpoint {wanted!r} of run {run}; `lineside checkpoints {run}` lists them"
        )
        self.run = run
        self.wanted = wanted


class CommandError(UsageError):
    """An invalid command to a training."""

    def __init__(self, what: str, value: object, expected: str) -> None:
        problem = "is missing" if value is None else f"{value!r:.200} is not valid"
        super().__init__(f"{what}: {problem}; expected {expected}")


class CallbackConfigError(UsageError):
    """An entry of ``custom_callbacks`` that cannot be used: its ``index`` and ``name``, and the
    ``key`` of the value in it."""

    def __init__(self, index: int, name: str, key: Sequence[str | int], sentence: str) -> None:
        named = f" ({name})" if name else ""
        where = f"{'.'.join(map(str, key))}: " if key else ""
        super().__init__(f"custom_callbacks[{index}]{named}: {where}{sentence}")
        self.index = index
        self.name = name
        self.key = tuple(key)
        self.sentence = sentence


class MissingExtra(UsageError):
    """The packages of a requested part of Lineside are not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the package {package}, which is not installed: "
            f"pip install 'lineside[{extra}]'"
        )
        self.package = package
        self.extra = extra


class WireError(LinesideError):
    """Bytes that the protocol does not allow."""


class CorruptRecord(WireError):
    """A record whose length or checksum is wrong, at ``position`` bytes into its log."""

    def __init__(self, position: int, why: str) -> None:
        super().__init__(f"corrupt record at byte {position}: {why}")
        self.position = position
        self.why = why


class BadMessage(WireError):
    """A malformed bus message; it is answered with ACK denied and dropped."""


class BusError(LinesideError):
    """The bus cannot do it now."""


class BrokerUnreachable(BusError):
    """No answer from a broker within the time given."""

    def __init__(self, address: str, seconds: float) -> None:
        super().__init__(
            f"no broker answered at {address} within {seconds:g} s: "
            "start one with `lineside up`, or set LINESIDE_BROKER to where it listens"
        )
        self.address = address


class KeyRefused(BrokerUnreachable):
    """A broker listens there and does not accept this key."""

    def __init__(self, address: str, why: str) -> None:
        BusError.__init__(
            self,
            f"{address} does not let this key in: {why}; `lineside keys list` on the broker's "
            "machine says which ones are good, and LINESIDE_KEY which one is shown",
        )
        self.address = address


class AddressInUse(BusError):
    """Another process has the address."""

    def __init__(self, what: str, address: str, hint: str) -> None:
        super().__init__(f"{what} {address} is already in use: {hint}")
        self.address = address


class ReaderDenied(BusError):
    """The broker refused a subscription, or a newer reader took over its name."""


class JournalError(BusError):
    """The journal cannot be read or written."""


class JournalDamaged(JournalError):
    """The journal's file is damaged."""


class JournalFull(JournalError):
    """The disk under the journal is full; nothing was committed."""


class StoreError(LinesideError):
    """The run history cannot be read or written."""


class StoreTooNew(StoreError):
    """The store was written by a newer Lineside."""

    def __init__(self, url: str, found: str, known: str) -> None:
        super().__init__(
            f"the store {url} has schema revision {found}, newer than this Lineside knows "
            f"({known}): upgrade Lineside, or point LINESIDE_STORE at another store"
        )
        self.url = url


class StoreUnavailable(StoreError):
    """The store is not available now; nothing was written, and trying again may help."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"the store {url} cannot be had now: {why}")
        self.url = url


class StoreDamaged(StoreError):
    """The store's file is damaged."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            f"the store {url} is damaged ({why}): `lineside up` or `lineside recorder` sets it "
            "aside and records again what the journal still holds"
        )
        self.url = url


class StoreRolledBack(StoreError):
    """The store holds less than before: an older copy, or a new store, took its place."""

    def __init__(self, url: str, known: int, found: int) -> None:
        super().__init__(
            f"the store {url} was recorded up to offset {known} of the journal and is now at "
            f"{found}: an older copy took its place, and the journal is to be read again from there"
        )
        self.url = url
