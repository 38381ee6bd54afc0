"""Removes secrets from facts, by their names at every depth and by their form in a text.

Metrics are never changed: ``num_tokens`` is no secret.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

REDACTED = "<redacted>"

_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SEPARATORS = re.compile(r"[^A-Za-z0-9]+")
_SECRET_NAME = re.compile(
    r"""(?:^|_)(?:
        password | passwd | passphrase | passcode | pass | pwd | secrets? | secret_\w+
      | credentials?(?:_json)? | cookies? | signature | sig | jwt | pat | private_key_\w+
      | client_secret\w* | access_token_\w+ | authorization | authentication | auth | bearer | dsn
      | connection_string | webhook(?:_url)?
      | (?:api|access|private|account|secret|encryption|signing|ssh|license|subscription|shared
         |wandb|comet|openai|anthropic|hf|hub|aws|azure|gcp|neptune|clearml|mlflow|swanlab
        )_?key(?:_id)?
    )$""",
    re.VERBOSE,
)
_TOKEN_NAME = re.compile(r"(?:^|_)(?:token|(?:access|auth|api|hf|hub|bearer)_tokens)$")
# Tokens of a vocabulary, not of an account.
_VOCABULARY_TOKEN = re.compile(
    r"""(?:^|_)(?:
        pad|eos|bos|unk|mask|sep|cls|image|video|audio|vision|boi|eoi|boa|eoa|start|end|stop|special
      | response|prompt|user|assistant|system|tool|think|thinking|reward|step|label|prefix|suffix
      | middle|fim|newline|next|first|last|max|min|num|per|decision|classification|placeholder
    )_token$""",
    re.VERBOSE,
)
_LOOKS_SECRET = re.compile(
    r"""\b(?:
        hf_[A-Za-z0-9]{20,} | (?:sk|pk|rk)-[A-Za-z0-9_-]{16,} | (?:sk|pk|rk)_(?:live|test)_\w{10,}
      | gh[pousr]_[A-Za-z0-9]{20,}
      | github_pat_\w{20,} | glpat-[\w-]{16,} | xox[abprs]-[A-Za-z0-9-]{10,}
      | (?:AKIA|ASIA)[A-Z0-9]{16} | AIza[\w-]{30,} | r8_[A-Za-z0-9]{20,} | nvapi-[\w-]{20,}
      | eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*
    )""",
    re.VERBOSE,
)
_USER_INFO = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]{0,20}://)([^\s/@:?#]*)(?::([^\s/]*))?@")
_SCHEME_VALUE = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_HEADER_VALUE = re.compile(r"\b(Authorization\s*:\s*)(?:[A-Za-z]+\s+)?[^\s,;\"']+", re.IGNORECASE)
# name=value, name: value, "name": "value", and the same inside JSON inside a string.
_NAMED_VALUE = re.compile(
    r"""(?<!\w)(?<!\w[.-])(?P<name>[A-Za-z][\w.-]*)(?P<between>\\?["']?\s*[=:](?!//)\s*)
        (?P<value>(?P<quote>\\?["'])(?:(?!(?P=quote)).)+(?P=quote) | [^\s,;&"'}\])]+)""",
    re.VERBOSE,
)


def is_secret_name(name: str) -> bool:
    """Whether ``name`` names a password, a key or an account token."""
    normalized = _SEPARATORS.sub("_", _CAMEL_CASE.sub("_", name)).lower().strip("_")
    return _SECRET_NAME.search(normalized) is not None or _is_token_name(normalized)


def redact(value: Any) -> Any:
    """A copy of ``value`` (from ``Sanitizer``) without secrets at any depth."""
    if isinstance(value, dict):
        return {
            redact_text(key): _masked(item) if is_secret_name(key) else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        if len(value) == 2 and isinstance(value[0], str) and is_secret_name(value[0]):
            return [value[0], _masked(value[1])]  # a header or an option as a pair
        return [redact(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value


def redact_text(text: str) -> str:
    """``text`` without passwords in URLs, named secrets and strings that look like a key."""
    text = _USER_INFO.sub(_without_password, text)
    text = _HEADER_VALUE.sub(rf"\1{REDACTED}", text)
    text = _SCHEME_VALUE.sub(rf"\1 {REDACTED}", text)
    text = _NAMED_VALUE.sub(_without_value, text)
    return _LOOKS_SECRET.sub(REDACTED, text)


def redact_argv(argv: Sequence[str]) -> list[str]:
    """A command line without secrets in options (``--hub_token X``, ``--api-key=X``) and values."""
    result: list[str] = []
    hide_next = False
    for argument in argv:
        if hide_next and not argument.startswith("--"):
            result.append(REDACTED)
            hide_next = False
            continue
        result.append(redact_text(argument))
        hide_next = (
            argument.startswith("-")
            and "=" not in argument
            and is_secret_name(argument.lstrip("-"))
        )
    return result


def _is_token_name(normalized: str) -> bool:
    return (
        _TOKEN_NAME.search(normalized) is not None and _VOCABULARY_TOKEN.search(normalized) is None
    )


def _masked(value: Any) -> Any:
    """``REDACTED``, but a switch or an empty value as it is: it is no secret."""
    return value if value is None or isinstance(value, bool) or value in ("", [], {}) else REDACTED


def _without_password(match: re.Match[str]) -> str:
    scheme, user, password = match.groups()
    if password is None:
        # A lone name before the @ is a user (git@), unless it is as long as a key.
        return f"{scheme}{user if len(user) < 16 else REDACTED}@"
    return f"{scheme}{user}:{REDACTED}@"


def _without_value(match: re.Match[str]) -> str:
    if not is_secret_name(match["name"].rpartition(".")[2]):
        return match[0]
    quote = match["quote"] or ""
    return f"{match['name']}{match['between']}{quote}{REDACTED}{quote}"
