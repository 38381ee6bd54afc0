"""Finds the class of a callback by ``pkg.mod.Class`` or ``/path/file.py:Class``, and checks it."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from lineside.bus.callbacks.loop_adapter import adapt, is_loop_class
from lineside.bus.errors import CallbackConfigError
from lineside.bus.module_file import import_file
from lineside.bus.wording import did_you_mean

_BASE = ("transformers.trainer_callback", "TrainerCallback")
_MakeError = Callable[..., CallbackConfigError]


def load_class(path: str, folder: str, make_error: _MakeError) -> type[Any]:
    """The class at ``path``, with a Trainer's hooks also if it is a plain loop's.

    ``folder``, or else the working folder, can be imported from, after installed packages;
    ``make_error`` makes an error from a sentence.

    Raises:
        CallbackConfigError: it cannot be imported, or is no callback of a Trainer or a plain loop.
    """
    base = Path(folder) if folder else Path.cwd()
    file, is_file, class_name = path.rpartition(".py:")
    if is_file:
        where = str(base / Path(f"{file}.py").expanduser())
    else:
        where, _, class_name = path.rpartition(".")
    _make_importable(Path(where).parent if is_file else base)
    try:
        module = _import_file(where, make_error) if is_file else _import(where, base, make_error)
        found = getattr(module, class_name, None)
    except CallbackConfigError:
        raise
    except (Exception, SystemExit) as error:
        sentence = f"{path!r} cannot be imported: {type(error).__name__}: {error}{raised_at(error)}"
        raise make_error(sentence, "name") from error
    if found is None:
        classes = [name for name, one in vars(module).items() if isinstance(one, type)]
        hint = did_you_mean(class_name, classes) or "; expected the name of a class in it"
        raise make_error(f"{where} has no {class_name}{hint}", "name")
    if is_loop_class(found) and not _is_trainer_callback(found):
        return adapt(found)
    if not _is_trainer_callback(found):
        raise make_error(
            f"{path!r} is no TrainerCallback; expected a class made from "
            "transformers.TrainerCallback, or a plain loop's with on_step_end(step, metrics)",
            "name",
        )
    return found  # type: ignore[no-any-return]


def check_arguments(found: type[Any], arguments: Mapping[str, Any], make_error: _MakeError) -> None:
    """Check the names of ``arguments`` against the constructor's.

    Raises:
        CallbackConfigError: one is unknown or missing.
    """
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):
        return  # it has no signature, and checks by itself
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {name: one for name, one in parameters.items() if one.kind in kinds}
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    there = f"{found.__name__} takes {', '.join(named) or 'no arguments'}"
    for name in arguments:
        if name not in named and not takes_any:
            raise make_error(f"unknown argument{did_you_mean(name, named)}; {there}", "args", name)
    for name, parameter in named.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            raise make_error(f"this argument is missing and has no default; {there}", "args", name)


def raised_at(error: BaseException) -> str:
    """Where ``error`` was raised, as `` (file, line 3)``."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError):
        return f" ({error.filename}, line {error.lineno})"
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _make_importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: it hides no installed package


def _import(name: str, folder: Path, make_error: _MakeError) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name
        if missing is None or not (name == missing or name.startswith(f"{missing}.")):
            raise  # the module is there, and imports one that is not
        parent, _, part = missing.rpartition(".")
        if parent:
            sentence = f"{name!r} cannot be imported: {parent} has no module {part}"
        else:
            sentence = f"there is no module {part!r}, neither installed nor in {folder}"
        raise make_error(f"{sentence}; expected pkg.mod.Class", "name") from None


def _import_file(path: str, make_error: _MakeError) -> ModuleType:
    # The path is in the name: two files may have one name, and hide no module.
    name = f"{Path(path).stem}_{sha256(path.encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    if not Path(path).is_file():
        raise make_error(f"there is no file {path}; expected /path/file.py:Class", "name")
    return import_file(name, path)


def _is_trainer_callback(found: object) -> bool:
    """Whether ``found`` is made from TrainerCallback.

    By name: a process that makes no Trainer need not import transformers for this.
    """
    return isinstance(found, type) and any(
        (one.__module__, one.__qualname__) == _BASE for one in found.__mro__
    )
