"""Finds a subscriber by ``MODULE:CLASS``, and reads its arguments from texts."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lineside.bus.errors import UsageError
from lineside.bus.module_file import import_file
from lineside.subscribers.subscriber import Subscriber

_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


class OptionError(UsageError):
    """An option ``name`` that is unknown, missing, or has a value of another type.

    ``known`` has the names of the class's options if this one is unknown; else ``expected`` is the
    expected value.
    """

    def __init__(self, name: str, expected: str = "", known: Sequence[str] = ()) -> None:
        super().__init__(f"option {name}: expected {expected or ', '.join(known) or 'none'}")
        self.name = name
        self.expected = expected
        self.known = tuple(known)

    def on_command_line(self, subscriber: type[Subscriber], texts: Mapping[str, str]) -> str:
        """The sentence on an option of ``texts``, which were given with ``-o``."""
        kind = subscriber.__name__
        if self.name not in texts:
            return f"option {self.name} of {kind} is missing: give it as -o {self.name}=..."
        given = f"-o {self.name}={texts[self.name]}"
        if self.expected:
            return f"{given}: expected {self.expected}"
        return f"{given}: {kind} has the options {', '.join(self.known) or 'none'}"


def load_class(target: str) -> type[Subscriber]:
    """The class of ``module:Class``; the module may be a file or package of the current folder.

    Raises:
        UsageError: there is no such module or class, or it is no ``Subscriber``.
    """
    module_name, _, class_name = target.partition(":")
    if not module_name or not class_name:
        raise UsageError(f"{target!r} is no subscriber: expected MODULE:CLASS, as my_module:Slack")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise UsageError(
            f"{module_name!r} is no module's name: expected MODULE:CLASS, run in the folder of "
            "MODULE.py"
        )
    found = getattr(_import(module_name), class_name, None)
    if not (isinstance(found, type) and issubclass(found, Subscriber)):
        what = "is not there" if found is None else "is no subclass of lineside's Subscriber"
        raise UsageError(f"{target!r}: {class_name} {what}; expected the name of such a class")
    return found


def parse_options(subscriber: type[Subscriber], options: Sequence[str]) -> dict[str, Any]:
    """The constructor's arguments from texts ``key=value``, as its annotations ask for.

    Raises:
        UsageError: an option that is unknown, missing, or has a value of another type.
    """
    texts = option_texts(options)
    try:
        return arguments(subscriber, texts)
    except OptionError as error:
        raise UsageError(error.on_command_line(subscriber, texts)) from None


def option_texts(options: Sequence[str]) -> dict[str, str]:
    """Names and values of texts ``key=value``.

    Raises:
        UsageError: a text has another form.
    """
    texts: dict[str, str] = {}
    for text in options:
        name, has_value, value = text.partition("=")
        if not has_value:
            raise UsageError(f"-o {text}: expected key=value")
        texts[name] = value
    return texts


def arguments(subscriber: type[Subscriber], values: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments from texts, and from lists and mappings of texts.

    Raises:
        OptionError: an option is unknown, missing, or has a value of another type.
    """
    parameters = _parameters(subscriber)
    hints = get_type_hints(subscriber.__init__)
    converted: dict[str, Any] = {}
    for name, value in values.items():
        if name not in parameters:
            raise OptionError(name, known=tuple(parameters))
        try:
            converted[name] = _convert(hints.get(name, Any), value)
        except ValueError as error:
            raise OptionError(name, str(error)) from None
    for name, parameter in parameters.items():
        if name not in values and parameter.default is inspect.Parameter.empty:
            raise OptionError(name, f"a value, {subscriber.__name__} has no default for it")
    return converted


def _parameters(subscriber: type[Subscriber]) -> dict[str, inspect.Parameter]:
    return {
        name: parameter
        for name, parameter in inspect.signature(subscriber).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _import(name: str) -> types.ModuleType:
    top = name.partition(".")[0]
    folder = Path.cwd()
    if top not in sys.modules:
        for path in (folder / top / "__init__.py", folder / f"{top}.py"):
            if path.is_file():
                _import_file(top, path)
                break
        else:
            if (folder / top).is_dir() and str(folder) not in sys.path:
                sys.path.append(str(folder))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        raise UsageError(
            f"there is no module {name!r}, neither in {folder} nor installed: expected MODULE:CLASS"
        ) from None


def _import_file(name: str, path: Path) -> None:
    """Import the file that was named, as ``name``; the folder comes last on the import path."""
    folder = str(path.parent if path.name != "__init__.py" else path.parent.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # for the module's neighbours: they hide no installed package
    import_file(name, path)


def _convert(hint: Any, value: Any) -> Any:
    """``value`` as a ``hint``; a ValueError names the expected value."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_to_one(arguments, value)
    if hint is Any or hint is object:
        return value
    if origin is Literal:
        for one in arguments:
            if str(one) == value:
                return one
        raise ValueError(f"one of {', '.join(map(str, arguments))}")
    kind = origin or hint
    if kind in _MAPPINGS:
        return _convert_mapping(arguments, value)
    if kind in _SEQUENCES:
        item = arguments[0] if arguments else str
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list):
            raise ValueError("a list")
        items = [_convert(item, part) for part in value]
        return items if kind in (list, Sequence) else kind(items)
    if isinstance(hint, type) and issubclass(hint, Enum):
        if not isinstance(value, str) or value not in hint.__members__:
            raise ValueError(f"one of {', '.join(hint.__members__)}")
        return hint[value]
    converter, expected = _CONVERTERS.get(hint, (hint if callable(hint) else str, "another value"))
    if not isinstance(value, str) and hint in _CONVERTERS:
        raise ValueError(expected)
    try:
        return converter(value)
    except (ValueError, TypeError):
        raise ValueError(expected) from None


def _convert_mapping(hints: Sequence[Any], value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError("names and values")  # noqa: TRY004 - one error for all of them
    name_hint, item_hint = hints or (str, Any)
    return {_convert(name_hint, name): _convert(item_hint, item) for name, item in value.items()}


def _convert_to_one(hints: Sequence[Any], value: Any) -> Any:
    expected = []
    if types.NoneType in hints and value in ("", None):
        return None
    for hint in sorted(hints, key=lambda one: one is str):  # every text is a str
        if hint is not types.NoneType:
            try:
                return _convert(hint, value)
            except ValueError as error:
                expected.append(str(error))
    raise ValueError(" or ".join(expected))


def _bool(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)


_SEQUENCES = (list, tuple, set, frozenset, Sequence)
_MAPPINGS = (dict, Mapping)
_CONVERTERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    str: (str, "a text"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (_bool, "true or false"),
    Path: (lambda text: Path(text).expanduser(), "a path"),
}
