"""The secrets in an address: an Apprise URL is one as a whole, a web address from its path on."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote

REDACTED = "<redacted>"
_MIN_CHARACTERS = 6  # a shorter part, but for a password, is a word rather than a token


def without_secrets(url: str) -> str:
    """``url`` for people: the host of a web address, the scheme of any other."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return REDACTED
    if scheme.lower() not in ("http", "https"):
        return f"{scheme}://{REDACTED}"
    authority, slash, path = rest.partition("/")
    host = authority.rpartition("@")[2].partition("?")[0]
    is_whole = host == authority and not path
    return f"{scheme}://{host}{slash}{'' if is_whole else REDACTED}"


class Redactor:
    """Removes the parts of ``url`` from texts of other programs."""

    def __init__(self, url: str) -> None:
        parts = {part for part in _parts(url) if part}
        ordered = sorted(parts, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __call__(self, text: str) -> str:
        """``text`` without them."""
        return self._pattern.sub(REDACTED, text) if self._pattern else text


def _parts(url: str) -> set[str]:
    rest = url.partition("://")[2]
    address, _, query = rest.partition("?")
    user_info, _, place = address.rpartition("@")
    user, _, password = user_info.partition(":")
    words = {user, *re.split(r"[/:]", place), *(value for _, value in parse_qsl(query))}
    words |= {part for word in words for part in word.split("/")}
    long = {word for word in words if len(word) >= _MIN_CHARACTERS}
    found = {url, rest, password, *long}
    return found | {unquote(word) for word in found}
