"""A subscriber of the configuration file: its class, its arguments, its surroundings."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lineside.bus.errors import UsageError
from lineside.bus.settings import Settings
from lineside.bus.yaml_document import DocumentError, Key, Problem, YamlDocument
from lineside.cli.configuration.loading import StackConfiguration
from lineside.cli.stack.programs import environment
from lineside.emitter.redaction.text import redact_text
from lineside.subscribers.handlers import Handlers
from lineside.subscribers.options import OptionError, arguments, load_class, option_texts
from lineside.subscribers.subscriber import Subscriber


@dataclass(frozen=True)
class ConfiguredSubscriber:
    """The class of a subscriber and its arguments, with the settings of its process."""

    settings: Settings
    target: type[Subscriber]
    arguments: dict[str, Any]


def enter(
    configuration: StackConfiguration, name: str, options: Sequence[str] = ()
) -> ConfiguredSubscriber:
    """Make this process that of the subscriber ``name``: its folder, environment and class.

    ``options``, as ``key=value``, win over those of the file.

    Raises:
        DocumentError: the class cannot be imported, or an option is invalid.
        UsageError: the file has no such subscriber.
    """
    document, subscribers = configuration.document, configuration.values.subscribers
    if document is None or name not in subscribers:
        raise UsageError(
            f"{name!r} is no subscriber: expected MODULE:CLASS, as my_module:Slack, or the name of "
            "one in the configuration file"
            + (f", which has {', '.join(subscribers) or 'none'}" if document else "")
        )
    section = subscribers[name]
    key: Key = ("subscribers", name)
    stack = environment(Settings.from_env())
    os.environ.update({**stack, **section.environment})
    os.chdir(configuration.folder(name))
    texts = option_texts(options)
    try:
        target = load_class(section.target)
        Handlers(target)
        values = arguments(target, {**section.options, **texts})
    except OptionError as error:
        if error.name in texts:
            raise UsageError(error.on_command_line(target, texts)) from None
        raise DocumentError([_option_problem(document, key, error)]) from None
    except UsageError as error:
        raise DocumentError([document.problem((*key, "class"), str(error))]) from None
    except Exception as error:
        sentence = f"{section.target} cannot be imported: {_describe(error)}"
        raise DocumentError([document.problem((*key, "class"), sentence)]) from error
    return ConfiguredSubscriber(Settings.from_env(), target, values)


def _option_problem(document: YamlDocument, key: Key, error: OptionError) -> Problem:
    option = (*key, "options", error.name)
    if error.expected:
        return document.invalid(option, error.expected)
    if error.known:
        return document.unknown(option, error.known)
    return document.problem(option, "unknown key; the class takes no options")


def _describe(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = redact_text(str(error))
    return f"{type(error).__name__}: {message} ({frame.filename}, line {frame.lineno})"
