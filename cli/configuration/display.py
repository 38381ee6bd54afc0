"""The effective configuration for people: defaults included, secrets redacted."""

from __future__ import annotations

from typing import Any

from lineside.bus.yaml_document import Key
from lineside.cli.configuration import archive, notification, upload
from lineside.cli.configuration.loading import StackConfiguration
from lineside.emitter.redaction.names import is_secret_name
from lineside.emitter.redaction.text import REDACTED
from lineside.emitter.spool.sanitize import Sanitizer
from lineside.subscribers.stopper import rule_parser


def effective(configuration: StackConfiguration) -> dict[str, Any]:
    """Every value of ``configuration``, as JSON.

    A value with a variable of a secret's name is redacted as a whole, beside what the redactor
    finds by names and forms.
    """
    shown = configuration.values.model_dump(mode="json", by_alias=True)
    for name in configuration.values.subscribers:
        shown["subscribers"][name]["folder"] = str(configuration.folder(name))
    document = configuration.document
    for key, source in document.sources.items() if document else ():
        if any(map(is_secret_name, source.variables)):
            _replace(shown, key)
    shown["stopper"]["rules"] = [rule_parser.fields_of(rule) for rule in configuration.rules]
    clean: dict[str, Any] = Sanitizer().clean(shown)
    # The redactor takes each ``webhook`` for a secret as a whole.
    targets = {name: shown["alerts"][name] for name in ("notify", "heartbeat")}
    clean["alerts"] = notification.redacted({**clean["alerts"], **targets})
    clean["uploads"] = upload.redacted(shown["uploads"])
    clean["archive"] = archive.redacted({**shown["archive"], "url": configuration.archive.url})
    return clean


def _replace(values: Any, key: Key) -> None:
    for part in key[:-1]:
        values = values[part]
    values[key[-1]] = REDACTED
