"""Reads the structure of a pickle without running it: no class is imported, nothing is called."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_TEXTS = frozenset(
    {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING"}
)
_BYTES = frozenset({"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"})
_NUMBERS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_OPAQUE = frozenset({"GLOBAL", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER"})
_EMPTY = frozenset({"EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "EMPTY_SET"})
_OF_MARK = frozenset({"LIST", "TUPLE", "FROZENSET", "INST", "OBJ"})
_OF_COUNT = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CALLS = {"REDUCE": 1, "NEWOBJ": 1, "NEWOBJ_EX": 2}  # arguments after the callable
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_NO_EFFECT = frozenset({"PROTO", "FRAME", "READONLY_BUFFER"})
_MARK = object()


class InvalidPickle(ValueError):
    """Bytes that are no pickle, or not all of one."""


@dataclass(eq=False)
class Value:
    """A value that the opcode of index ``opcode`` makes or, for a text, fetches from the memo.

    ``plain`` is a text, bytes, a number, a switch or None. A container has ``pairs`` of keys and
    values, or ``items``; those of an object are its arguments, and its state.
    """

    opcode: int
    plain: str | bytes | float | bool | None = None
    is_container: bool = False
    items: list[Value] = field(default_factory=list)
    pairs: list[tuple[Value, Value]] = field(default_factory=list)


@dataclass(frozen=True)
class Pickle:
    """The opcodes of a pickle, each with its argument and position, and the value they make.

    ``values`` are all values that are made on the way. ``changed`` has the container that an
    opcode adds to, and ``stored`` the value that an opcode puts into the memo under a key.
    """

    opcodes: list[tuple[pickletools.OpcodeInfo, Any, int]]
    root: Value
    values: list[Value]
    changed: dict[int, Value]
    stored: dict[int, tuple[int, Value]]

    def mappings(self) -> Iterator[dict[str, Value]]:
        """The dicts and the states of objects, by their keys that are texts."""
        for value in self.values:
            if value.pairs:
                yield {key.plain: item for key, item in value.pairs if isinstance(key.plain, str)}


def parse(data: bytes) -> Pickle:
    """The structure of the pickle ``data``; what follows its end is passed over.

    Raises:
        InvalidPickle: it is none, or it is cut short.
    """
    try:
        opcodes = list(pickletools.genops(data))
        return _Machine(opcodes).run()
    except InvalidPickle:
        raise
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise InvalidPickle(f"it is no whole pickle ({str(error)[:200]})") from None


class _Machine:
    """Follows what the opcodes do with the stack and the memo."""

    def __init__(self, opcodes: list[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> None:
        self.opcodes = [(opcode, argument, at or 0) for opcode, argument, at in opcodes]
        self.stack: list[Any] = []
        self.memo: dict[int, Value] = {}
        self.values: list[Value] = []
        self.changed: dict[int, Value] = {}
        self.stored: dict[int, tuple[int, Value]] = {}

    def run(self) -> Pickle:
        for index, (opcode, argument, _) in enumerate(self.opcodes):
            if opcode.name == "STOP":
                root = self._pop()
                return Pickle(self.opcodes, root, self.values, self.changed, self.stored)
            self._follow(index, opcode.name, argument)
        raise InvalidPickle("it has no end")

    def _follow(self, index: int, name: str, argument: Any) -> None:
        if name in _NO_EFFECT:
            return
        if name == "MARK":
            self.stack.append(_MARK)
        elif name in _TEXTS or name in _NUMBERS:
            self._push(Value(index, argument))
        elif name in _BYTES:
            self._push(Value(index, bytes(argument)))
        elif name in _CONSTANTS:
            self._push(Value(index, _CONSTANTS[name]))
        elif name in _OPAQUE:
            self._push(Value(index))
        elif name in _EMPTY:
            self._push(Value(index, is_container=True))
        elif name in _GETS:
            known = self.memo[int(argument)]
            if isinstance(known.plain, (str, bytes)):
                self._push(Value(index, known.plain))
            else:
                self.stack.append(known)
        elif name in _PUTS or name == "MEMOIZE":
            key = len(self.memo) if name == "MEMOIZE" else int(argument)
            self.memo[key] = self._top()
            self.stored[index] = (key, self._top())
        elif name in _OF_MARK:
            self._push(Value(index, is_container=True, items=self._to_mark()))
        elif name in _OF_COUNT:
            self._push(Value(index, is_container=True, items=self._pops(_OF_COUNT[name])))
        elif name in _CALLS:
            arguments = self._pops(_CALLS[name])
            self._pop()
            self._push(Value(index, is_container=True, items=arguments))
        elif name == "DICT":
            self._push(Value(index, is_container=True, pairs=_pairs(self._to_mark())))
        elif name in ("STACK_GLOBAL", "BINPERSID"):
            self._pops(2 if name == "STACK_GLOBAL" else 1)
            self._push(Value(index))
        elif name == "DUP":
            self._push(self._top())
        elif name == "POP":
            self.stack.pop()
        elif name == "POP_MARK":
            self._to_mark()
        else:
            self._change(index, name)

    def _change(self, index: int, name: str) -> None:
        items: list[Value] = []
        pairs: list[tuple[Value, Value]] = []
        if name in ("APPENDS", "ADDITEMS"):
            items = self._to_mark()
        elif name in ("APPEND", "BUILD"):
            items = [self._pop()]
        elif name in ("SETITEM", "SETITEMS"):
            pairs = _pairs(self._pops(2) if name == "SETITEM" else self._to_mark())
        else:
            raise InvalidPickle(f"it has the unknown opcode {name}")
        target = self._top()
        target.items += items
        target.pairs += pairs
        self.changed[index] = target

    def _push(self, value: Value) -> None:
        self.stack.append(value)
        self.values.append(value)

    def _top(self) -> Value:
        if not self.stack or self.stack[-1] is _MARK:
            raise InvalidPickle("it takes a value where there is none")
        value: Value = self.stack[-1]
        return value

    def _pop(self) -> Value:
        value = self._top()
        self.stack.pop()
        return value

    def _pops(self, count: int) -> list[Value]:
        return [self._pop() for _ in range(count)][::-1]

    def _to_mark(self) -> list[Value]:
        items: list[Value] = []
        while self.stack:
            value = self.stack.pop()
            if value is _MARK:
                return items[::-1]
            items.append(value)
        raise InvalidPickle("it closes a mark that was not set")


def _pairs(items: list[Value]) -> list[tuple[Value, Value]]:
    if len(items) % 2:
        raise InvalidPickle("it has a key without a value")
    return list(zip(items[::2], items[1::2], strict=True))
