"""A YAML file of settings: each value with its line, and variables of the environment replaced.

Every scalar is a text as written, so that the key decides its type: ``project: no`` is the text
``no``. An empty value, ``~`` or ``null`` is None. ``${NAME}`` and ``${NAME:-default}`` stand for
variables; ``$${`` is ``${``. Errors show values as written, never the value of a variable.
``YamlDocument.typed`` reads values as YAML does.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from lineside.bus.errors import MissingExtra, UsageError
from lineside.bus.terminal_text import printable
from lineside.bus.variables import replace_variables
from lineside.bus.wording import did_you_mean

Key: TypeAlias = tuple[str | int, ...]
"""Where a value is: the names and indexes that lead to it. The whole document is ``()``."""

_MAX_BYTES = 1 << 20
_MAX_VALUES = 20_000
_MAX_DEPTH = 20
_NULL = re.compile(r"~|null|Null|NULL|")
_EXPONENT = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+")  # 1e-4 is a text to YAML 1.1
_YAML_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Problem:
    """One fault of a file: the ``key`` on ``line``, and a sentence on it."""

    file: str
    line: int
    key: str
    sentence: str

    def __str__(self) -> str:
        key = f"{self.key}: " if self.key else ""
        return printable(f"{self.file}, line {self.line}: {key}{self.sentence}")


class DocumentError(UsageError):
    """A file with faults; the message has one line for each of ``problems``."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Source:
    """Where a value came from: its line, its text as written, the variables in it, and whether YAML
    reads the text as more than a text."""

    line: int
    text: str | None = None
    variables: tuple[str, ...] = ()
    is_plain: bool = False


def _as_written(_key: Key, text: str) -> str:
    return text


def _never(_key: Key) -> bool:
    return False


@dataclass(frozen=True)
class YamlDocument:
    """A file's ``value``: mappings, lists, texts and None, each with its source in ``sources``.

    ``redact`` takes the key and the text of a value that an error is about to show.
    """

    file: str
    value: Any
    sources: Mapping[Key, Source]
    redact: Callable[[Key, str], str] = _as_written

    def get(self, key: Key) -> Any:
        """The value at ``key``; None if there is none."""
        value = self.value
        for part in key:
            is_item = isinstance(value, list) and isinstance(part, int) and part < len(value)
            if not is_item and not (isinstance(value, dict) and part in value):
                return None
            value = value[part]
        return value

    def typed(self, key: Key) -> Any:
        """The value at ``key`` as YAML reads it, with its variables as written."""
        value = self.get(key)
        if isinstance(value, dict):
            return {name: self.typed((*key, name)) for name in value}
        if isinstance(value, list):
            return [self.typed((*key, index)) for index in range(len(value))]
        return None if value is None else _scalar(self.sources[key])

    def line(self, key: Key) -> int:
        """The line of ``key``, or of the nearest value around it."""
        while key not in self.sources and key:
            key = key[:-1]
        return self.sources[key].line if key in self.sources else 1

    def problem(self, key: Key, sentence: str) -> Problem:
        """A fault of ``key``."""
        return Problem(self.file, self.line(key), key_text(key), sentence)

    def invalid(self, key: Key, expected: str) -> Problem:
        """The fault that the value at ``key`` is missing, or is not as ``expected``."""
        value = self.get(key)
        if value is None:
            fault = "has no value" if key in self.sources else "is missing"
        else:
            fault = f"{self._shown(key, value)} is invalid"
        return self.problem(key, f"{fault}; expected {expected}")

    def unknown(self, key: Key, known: Iterable[str]) -> Problem:
        """The fault that ``key`` is none of the names that are ``known`` there."""
        names = sorted(known)
        if len(names) == 1:
            return self.problem(key, f"unknown key; expected {names[0]}")
        similar = did_you_mean(str(key[-1]), names)
        end = f"{similar} The keys here are" if similar else "; the keys here are"
        return self.problem(key, f"unknown key{end} {', '.join(names)}")

    def _shown(self, key: Key, value: Any) -> str:
        if isinstance(value, dict):
            return f"a mapping of {', '.join(value)[:100]}" if value else "an empty mapping"
        if isinstance(value, list):
            return "a list" if value else "an empty list"
        text = self.sources[key].text if key in self.sources else str(value)
        shown = self.redact(key, text or "")
        return f"'{shown:.200}'"


def key_text(key: Key) -> str:
    """``key`` as in ``stopper.rules[0].patience``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return "".join(parts).removeprefix(".")


def load(
    path: Path,
    *,
    what: str,
    env: Mapping[str, str] | None = None,
    redact: Callable[[Key, str], str] = _as_written,
    keeps_variables: Callable[[Key], bool] = _never,
) -> YamlDocument:
    """The document in ``path``; ``what`` names it in errors, as ``a file of rules``.

    Variables in a value whose key ``keeps_variables`` stay as written, set or not.

    Raises:
        DocumentError: the file is no YAML, has a name twice, or names a variable that is not set.
        UsageError: the file cannot be read.
        MissingExtra: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtra(what, "pyyaml", "server") from None
    content = _read(path, what)
    try:
        node = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        why = getattr(error, "problem", None) or getattr(error, "reason", None) or "no valid text"
        before = content[: error.start] if isinstance(error, UnicodeDecodeError) else b""
        line = mark.line + 1 if mark else before.count(b"\n") + 1
        sentence = f"is no YAML: {why}; expected {what}"
        raise DocumentError([Problem(str(path), line, "", sentence)]) from None
    except RecursionError:
        sentence = f"is nested too deeply; expected {what}"
        raise DocumentError([Problem(str(path), 1, "", sentence)]) from None
    builder = _Builder(str(path), os.environ if env is None else env, keeps_variables)
    value = builder.build(node, ()) if node is not None else None
    if builder.problems:
        raise DocumentError(builder.problems)
    return YamlDocument(str(path), value, builder.sources, redact)


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; expected {what}") from None
    if len(content) > _MAX_BYTES:
        raise UsageError(f"{path} is larger than {_MAX_BYTES >> 20} MiB; expected {what}")
    return content


class _Builder:
    """Turns the nodes of PyYAML into values, and collects their sources and faults."""

    def __init__(
        self, file: str, env: Mapping[str, str], keeps_variables: Callable[[Key], bool]
    ) -> None:
        self._keeps_variables = keeps_variables
        self.sources: dict[Key, Source] = {}
        self.problems: list[Problem] = []
        self._file = file
        self._env = env
        self._open: set[int] = set()  # an alias may contain itself
        self._is_too_large = False

    def build(self, node: Any, key: Key, line: int | None = None) -> Any:
        """The value of ``node``; a value of a mapping has the ``line`` of its name."""
        line = line or node.start_mark.line + 1
        self.sources[key] = Source(line)
        if not node.tag.startswith(_YAML_TAG) or "python" in node.tag:
            return self._report(key, f"the tag {node.tag} is not supported; expected a plain value")
        if isinstance(node.value, str):
            return self._scalar(node, key, line)
        if self._is_too_large:
            return None
        if id(node) in self._open or len(self.sources) > _MAX_VALUES or len(key) > _MAX_DEPTH:
            self._is_too_large = True
            sentence = f"expected at most {_MAX_VALUES} values, {_MAX_DEPTH} deep, none in itself"
            return self._report(key[:_MAX_DEPTH], sentence)
        self._open.add(id(node))
        try:
            if node.tag == f"{_YAML_TAG}map":
                return self._mapping(node, key)
            return [self.build(item, (*key, index)) for index, item in enumerate(node.value)]
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: Any, key: Key) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name_node, value_node in node.value:
            line, name = name_node.start_mark.line + 1, name_node.value
            place = (*key, name)
            if not isinstance(name, str):
                self._add(line, key, "a name is invalid; expected a text")
            elif name_node.tag == f"{_YAML_TAG}merge":
                self._add(line, place, "is not supported; expected the keys themselves")
            elif name in values:
                first = self.sources[place].line
                self._add(line, place, f"is given twice, first on line {first}; expected one value")
            else:
                values[name] = self.build(value_node, place, line)
        return values

    def _scalar(self, node: Any, key: Key, line: int) -> str | None:
        text: str = node.value
        if node.style is None and _NULL.fullmatch(text):
            return None
        replaced = replace_variables(text, self._env)
        self.sources[key] = Source(line, text, replaced.names, node.style is None)
        if self._keeps_variables(key):
            return text
        for fault in replaced.faults:
            self._report(key, fault)
        return replaced.text

    def _report(self, key: Key, sentence: str) -> None:
        self._add(self.sources[key].line, key, sentence)

    def _add(self, line: int, key: Key, sentence: str) -> None:
        self.problems.append(Problem(self._file, line, key_text(key), sentence))


def _scalar(source: Source) -> Any:
    """The value of a scalar: a number, true or false, or a text."""
    import yaml

    text = source.text or ""
    if source.is_plain and _EXPONENT.fullmatch(text):
        return float(text)
    with contextlib.suppress(yaml.YAMLError, ValueError):
        value = yaml.safe_load(text) if source.is_plain else text
        return value if isinstance(value, (bool, int, float)) else text
    return text
