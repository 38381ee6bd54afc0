"""Takes secrets out of a pickle without running it.

The opcodes are copied one by one. A secret text becomes another text, and an object under a secret
name becomes a text as a whole: its parts are still made, and dropped. So every other value, and
each place of the memo, is as before.
"""

from __future__ import annotations

import struct
from typing import Any

from lineside.subscribers.archiver.files.pickled import InvalidPickle, Pickle, Value, parse
from lineside.subscribers.archiver.files.redaction import Redaction

_MOST_VALUES = 100_000
_POP, _POP_MARK = b"0", b"1"
# What takes from the stack what an opcode takes, for the opcodes that make a container or add to
# one. Those that take nothing are not here.
_DROPS = {
    **dict.fromkeys(("LIST", "TUPLE", "DICT", "FROZENSET", "INST", "OBJ"), _POP_MARK),
    **dict.fromkeys(("APPENDS", "ADDITEMS", "SETITEMS"), _POP_MARK),
    **dict.fromkeys(("TUPLE1", "APPEND", "BUILD"), _POP),
    **dict.fromkeys(("TUPLE2", "REDUCE", "NEWOBJ", "SETITEM"), _POP * 2),
    **dict.fromkeys(("TUPLE3", "NEWOBJ_EX"), _POP * 3),
}


def scrub_pickle(data: bytes, redaction: Redaction) -> bytes | None:
    """``data`` without secrets; None if it holds none.

    Raises:
        InvalidPickle: it cannot be followed.
    """
    pickle = parse(data)
    replaced = _Secrets(redaction).find(pickle.root)
    return _emit(data, pickle, replaced) if replaced else None


class _Secrets:
    """Finds what is to be replaced: for the opcode that makes a value, what it makes instead."""

    def __init__(self, redaction: Redaction) -> None:
        self.redaction = redaction
        self.replaced: dict[int, str | bytes] = {}
        self._open: set[int] = set()
        self._names: dict[int, list[str]] = {}
        self._count = 0
        self._masked: list[tuple[Value, str]] = []
        self._kept: set[int] = set()

    def find(self, root: Value) -> dict[int, str | bytes]:
        try:
            self._compare(root, self.redaction.mask(self._view(root)))
            for value, text in self._masked:
                self._replace_whole(value, text)
        except RecursionError:
            raise InvalidPickle("its values are nested too deep") from None
        return self.replaced

    def _view(self, value: Value) -> Any:
        """``value`` as dicts, lists, texts and numbers, with texts redacted."""
        self._count += 1
        if self._count > _MOST_VALUES:
            raise InvalidPickle(f"it has more than {_MOST_VALUES:,} values")
        if isinstance(value.plain, str):
            return self.redaction.text(value.plain)
        if isinstance(value.plain, bytes):
            return self.redaction.text(value.plain.decode("latin-1"))
        if not value.is_container or id(value) in self._open:
            return None if value.is_container else value.plain
        self._open.add(id(value))
        items = [self._view(item) for item in value.items]
        plain = [item.plain for item in value.items]
        view: Any = self.redaction.without_key_lines(plain, items)
        if value.pairs:
            names = self._names[id(value)] = self._key_names(value)
            values = [self._view(item) for _, item in value.pairs]
            mapping = dict(zip(names, values, strict=True))
            view = [*view, mapping] if view else mapping
        self._open.discard(id(value))
        return view

    def _key_names(self, value: Value) -> list[str]:
        """A name for each key of ``value``: the key if it is a text and no secret itself."""
        names: dict[str, None] = {}
        for index, (key, _) in enumerate(value.pairs):
            name = f"#{index}"
            if isinstance(key.plain, str):
                redacted = self.redaction.text(key.plain)
                if redacted != key.plain:
                    self.replaced[key.opcode] = redacted
                elif key.plain in names:
                    raise InvalidPickle(f"it has the key {key.plain!r:.50} twice")
                else:
                    name = key.plain
            names[name] = None
        return list(names)

    def _compare(self, value: Value, view: Any) -> None:
        """Note where ``view`` was masked."""
        if isinstance(value.plain, bytes):
            self._replace(value, value.plain.decode("latin-1"), view)
        elif not value.is_container:
            self._replace(value, value.plain, view)
        elif isinstance(view, str):
            self._masked.append((value, view))
        elif view is not None:
            self._kept.add(id(value))
            items = view if isinstance(view, list) else []
            for item, item_view in zip(value.items, items, strict=False):
                self._compare(item, item_view)
            if value.pairs:
                mapping = items[-1] if items else view
                for name, (_, item) in zip(self._names[id(value)], value.pairs, strict=True):
                    self._compare(item, mapping[name])

    def _replace(self, value: Value, before: object, view: Any) -> None:
        if isinstance(view, str) and view != before:
            is_bytes = isinstance(value.plain, bytes)
            self.replaced[value.opcode] = view.encode("latin-1", "replace") if is_bytes else view

    def _replace_whole(self, value: Value, text: str) -> None:
        """Replace a container and what is in it alone: calls with what is redacted would fail."""
        if self.replaced.get(value.opcode) == text or id(value) in self._kept:
            return
        if value.is_container or isinstance(value.plain, str):
            self.replaced[value.opcode] = text
        elif isinstance(value.plain, bytes):
            self.replaced[value.opcode] = text.encode()
        for item in (*value.items, *(part for pair in value.pairs for part in pair)):
            self._replace_whole(item, text)


def _emit(data: bytes, pickle: Pickle, replaced: dict[int, str | bytes]) -> bytes:
    """``pickle``, of the bytes ``data``, with the values of the opcodes in ``replaced``."""
    output: list[bytes] = []
    memo: dict[int, str | bytes | None] = {}  # the texts in it as they now are
    gets = {value.opcode: value for value in pickle.values}
    ends = [at for _, _, at in pickle.opcodes[1:]] + [pickle.opcodes[-1][2] + 1]
    for index, ((opcode, argument, start), end) in enumerate(
        zip(pickle.opcodes, ends, strict=True)
    ):
        name, raw = opcode.name, data[start:end]
        if name == "FRAME":  # its length may be another now, and no reader needs it
            continue
        if index in pickle.stored:
            key, value = pickle.stored[index]
            plain = value.plain if isinstance(value.plain, (str, bytes)) else None
            memo[key] = replaced.get(value.opcode, plain)
        if name in ("GET", "BINGET", "LONG_BINGET"):
            made = gets.get(index)  # a text that is fetched is a value of its own
            if made is not None and isinstance(made.plain, (str, bytes)):
                wanted = replaced.get(index, made.plain)
                if memo[int(argument)] != wanted:
                    raw = _constant(wanted)
        elif index in pickle.changed:
            if pickle.changed[index].opcode in replaced:
                raw = _DROPS[name]
        elif index in replaced:
            raw = _DROPS.get(name, b"") + _constant(replaced[index], is_array=name == "BYTEARRAY8")
        output.append(raw)
    return b"".join(output)


def _constant(value: str | bytes, *, is_array: bool = False) -> bytes:
    if isinstance(value, str):
        encoded = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(encoded)) + encoded
    if is_array:
        return b"\x96" + struct.pack("<Q", len(value)) + value
    return b"B" + struct.pack("<I", len(value)) + value
