"""Hides the values of arguments and secrets in the text of an error, which more people read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from lineside.bus.variables import replace_variables

_MIN_HIDDEN = 4  # shorter texts are no secrets, and hiding them would garble an error
_SECRET_NAME = re.compile(r"(key|token|secret|password|passwd|credentials?|dsn)s?$", re.IGNORECASE)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")


def hide_arguments(text: str, arguments: Mapping[str, Any]) -> str:
    """``text`` with the values of ``arguments`` replaced by their names."""
    return _hide(text, _leaves(arguments, "args"))


def hide_secrets(
    text: str, args: Mapping[str, Any], environment: Mapping[str, str], env: Mapping[str, str]
) -> str:
    """``text`` with secrets replaced by their names.

    Secret are the values of variables that ``args`` and ``environment`` name, those that stand
    there or in ``env`` under the name of a secret, and who a URL logs in as.
    """
    found = [(value, name) for name, value in env.items() if _SECRET_NAME.search(name)]
    written = [*_leaves(args, "args"), *_leaves(environment, "environment")]
    for value, name in written:
        variables = replace_variables(value, env).names
        found += [(env.get(variable, ""), variable) for variable in variables]
        if not variables and _SECRET_NAME.search(name):
            found.append((value, name))
    return _USER_INFO.sub("<user>@", _hide(text, found))


def _hide(text: str, named: Iterable[tuple[str, str]]) -> str:
    for value, name in sorted(named, key=lambda one: -len(one[0])):
        if len(value) >= _MIN_HIDDEN:
            for form in (value, repr(value)[1:-1], quote(value, safe="")):
                text = text.replace(form, f"<{name}>")
    return text


def _leaves(value: Any, name: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _leaves(one, f"{name}.{key}")
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one, name)
    elif not isinstance(value, bool):
        yield str(value), name
