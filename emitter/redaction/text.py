"""Removes secrets from a text: keys by their form, values by the name beside them.

Each step runs only if the text holds one of its keywords, and every pattern is linear in the
length of the text: it begins at a boundary, and what it repeats is bounded or consumed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from lineside.emitter.redaction.formats import SHORTEST, TOKEN, WEBHOOK
from lineside.emitter.redaction.names import Secrecy, is_secret_name, secrecy, words

REDACTED = "<redacted>"

_CACHED_LENGTH = 256  # texts that come again and again are short
# In each name that ``secrecy`` knows, and in the headers and commands below.
_STEMS = words(
    "pass pwd secret token key cred auth cookie bearer basic sig jwt pat dsn conn hook otp "
    "mnemonic seed kubeconfig service_account netrc sas_ presigned recovery backup "
    "contrasena"
)

_KEY_BLOCK = re.compile(
    r"-----BEGIN[ A-Z0-9_-]{0,60}PRIVATE KEY[ A-Z]{0,10}-----.*?"
    r"(?:-----END[ A-Z0-9_-]{0,60}PRIVATE KEY[ A-Z]{0,10}-----|\Z)"
    r"|(?<=Private-Lines: ).*?(?=\\?[rn]?\s?Private-MAC|\Z)",
    re.DOTALL,
)
_KEY_BEGIN = re.compile(r"-----BEGIN[ A-Z0-9_-]{0,60}PRIVATE KEY[ A-Z]{0,10}-----")
_KEY_END = re.compile(r"-----END[ A-Z0-9_-]{0,60}PRIVATE KEY[ A-Z]{0,10}-----")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20}://)([^\s\"'<>`]{1,1000})")
_PORT = re.compile(r"\d{1,5}(?:[/?#].*)?")
_LONG_WORD = re.compile(rf"[A-Za-z0-9_.:+/=~-]{{{SHORTEST},}}")
_SCHEME_VALUE = re.compile(
    r"\b(Bearer|Basic)(\s{1,4})(?![a-z]{1,15}\b|[A-Z][a-z]{1,15}\b)([\w.~+/=-]{8,})",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"""((?:Proxy-)?Authorization(?:\\?["'])?\s{0,4}[:=]\s{0,4}\\?["']?)
        (?:(?:Digest|OAuth|AWS4-HMAC-SHA256|Signature)\s[^\n\r]*
          | (?:[A-Za-z][\w-]{0,30}\s{1,4})?[^\s,;"'\\]+)""",
    re.VERBOSE | re.IGNORECASE,
)
_COOKIE_HEADER = re.compile(r"(\b(?:Set-)?Cookie:[ \t]{0,4})[^\n\r\"']+", re.IGNORECASE)
_XML = re.compile(r"<([A-Za-z][\w.-]{0,60})>([^<>\n]{1,500})(?=</)")
_NETRC = re.compile(
    r"(\b(?:machine\s+\S{1,256}|default|login\s+\S{1,256}|account\s+\S{1,256})\s+password\s+)\S+"
)
_LOGIN_COMMAND = re.compile(
    r"(\b(?:wandb|comet|swanlab|clearml|neptune|hf|ngrok)\s+"
    r"(?:login|authtoken|config add-authtoken)\s+)(?!-)[^\s\"']{8,}"
)
_OPTION = re.compile(
    r"""(?<![\w.-])(--?[A-Za-z][\w-]{0,60})(?:[ \t]{1,8}|=)
        (\\?"[^"\n]{0,1000}"|\\?'[^'\n]{0,1000}'|[^\s"']{1,1000})""",
    re.VERBOSE,
)
# name=value, name: value, "name": "value", | name | value |, ('name', 'value'), env["NAME"] = "x".
_NAME_REST = re.compile(r"[A-Za-z0-9_.-]{0,200}")
_BETWEEN = re.compile(
    r"""(?:\\{0,3}["'`])?\]?[ \t]{0,40}
        (?:(?::=|=>|->|=(?!=)|:(?!//|:)|\|)[ \t]{0,40} | ,[ \t]{0,4}(?=\\{0,3}["'`]))""",
    re.VERBOSE,
)
_QUOTE = re.compile(r"[bBfFrRuU]{0,2}(\\{0,3}[\"'`])")
_BARE = re.compile(r"[^\s,;&\"'}\])|]+")
_QUOTED_ITEM = re.compile(r"([\"'])([^\"'\n]{0,1000})\1(\s{0,4}:)?")
_INDENT = re.compile(r"[ \t]*(?:- )?")
_VALUE_CHARACTERS = 8_192  # of a quoted or bracketed value

# What stands where a secret would, and is none.
_NO_SECRET = re.compile(
    r"""<[\w|/ .-]{0,60}>?|\[[A-Z_]{1,20}\]?|\*+|\.{3}|…|\$\{?[A-Z_][A-Z0-9_]*\}?|\$\{\{?[^}]*\}*
      | %\(?\w*\)?[sdr]|\{[\w.]*\}?|None|null|nil|undefined|[Tt]rue|[Ff]alse|TRUE|FALSE|[(\[{]+
      | none|on|off|yes|no|-?\d{0,20}\.\d{1,20}(?:e[+-]?\d{1,3})?
      | str|int|bool|bytes|Any|Optional\[?.*|[Ss]ecretStr| Union\[?.*
      | (?:self|cls|os|args|config|cfg|settings|kwargs|opts?|options|params|environ|secrets|getpass
          |userdata)(?:\.\w+)+(?:[(\[].*)?
      | [A-Za-z_.]+[(\[][\w.]*""",
    re.VERBOSE,
)
_NUMBERS = re.compile(r"[\s\d.,+eE()\[\]{}-]*")
_WITH_DIGIT = re.compile(r"(?=\D*\d)(?=[^A-Za-z]*[A-Za-z])[^\s]{8,}")
_SPECIAL_TOKEN = re.compile(r"<.{0,60}>|\[[A-Za-z_]{1,20}\]|##?\w{1,20}")

_USERS = frozenset({"-u", "--user", "-U", "--proxy-user", "--userpass"})
_PASSWORD_OPTIONS = frozenset({"-p", "-P", "-a"})
# Of these commands -p is a port, a path, a partition or the like.
_OTHER_P = re.compile(
    r"(?:^|[\s/;&|])(?:ssh|scp|sftp|mkdir|cp|pytest|sbatch|srun|salloc|squeue|sinfo|scontrol|ps|nc"
    r"|docker run|podman run|perf|rsync|tar|git|python3?|torchrun|accelerate|read|tee)\s"
)
# Of these it is a password.
_PASSWORD_P = re.compile(
    r"(?:^|[\s/;&|])(?:sshpass|mysql\w*|mariadb\w*|mongo\w*|psql|smbclient|twine|redis-cli|htpasswd"
    r"|(?:docker|podman|helm registry|az|oc|crane auth|skopeo|buildah|npm|argocd|vault) login"
    r"|zip|unzip|7z|ldapsearch|ldapmodify)\s"
)


def redact_text(text: str) -> str:
    """``text`` without keys, tokens, passwords, and the values of secret names."""
    if len(text) > _CACHED_LENGTH:
        return _redact(text)
    return text if len(text) < SHORTEST and text.isidentifier() else _redact_short(text)


def begins_key_block(text: str) -> bool:
    """Whether a private key begins in ``text`` and does not end in it."""
    begin = _KEY_BEGIN.search(text) if "PRIVATE KEY" in text else None
    return begin is not None and _KEY_END.search(text, begin.end()) is None


def ends_key_block(text: str) -> bool:
    """Whether a private key ends in ``text``."""
    return _KEY_END.search(text) is not None


def is_credential(text: str) -> bool:
    """Whether ``text`` has the form of a password or key rather than of a word."""
    return (
        _WITH_DIGIT.fullmatch(text) is not None
        and _SPECIAL_TOKEN.fullmatch(text) is None
        and text != REDACTED
    )


def is_special_token(text: str) -> bool:
    """Whether ``text`` is a token of a vocabulary: ``</s>``, ``[PAD]``, or ``REDACTED``."""
    return _SPECIAL_TOKEN.fullmatch(text) is not None


def redact_arguments(arguments: Sequence[str]) -> list[str]:
    """The words of a command line without secrets; each alone is redacted already."""
    result: list[str] = []
    for index, argument in enumerate(arguments):
        option = arguments[index - 1] if index else ""
        if option.startswith("-") and "=" not in option:
            before = " ".join(arguments[max(index - 6, 0) : index]) + " "
            argument = _argument(option, argument, before)
        result.append(argument)
    return result


@lru_cache(4_096)
def _redact_short(text: str) -> str:
    return _redact(text)


def _redact(text: str) -> str:
    if "PRIVATE KEY" in text or "Private-Lines" in text:
        text = _without_key_blocks(text)
    if "://" in text:
        text = _URL.sub(_without_url_secrets, text)
    if len(text) >= SHORTEST and max(map(len, text.split()), default=0) >= SHORTEST:
        text = _LONG_WORD.sub(_without_tokens, text)
    lower = text.lower()
    stems = tuple(stem for stem in _STEMS if stem in lower)
    if stems:
        text = _without_named_values(text, lower, stems)
    if "-" in text and (" -" in text or text.startswith("-")):
        text = _OPTION.sub(lambda match: _without_argument(match, text), text)
    if " login" in lower or "authtoken" in lower:
        text = _LOGIN_COMMAND.sub(rf"\1{REDACTED}", text)
    return text


def _without_key_blocks(text: str) -> str:
    end, begin = _KEY_END.search(text), _KEY_BEGIN.search(text)
    if end and (begin is None or end.start() < begin.start()):
        text = REDACTED + text[end.end() :]  # the key began before the text
    return _KEY_BLOCK.sub(REDACTED, text)


def _without_url_secrets(match: re.Match[str]) -> str:
    scheme, rest = match.groups()
    user_info, at, host = rest.rpartition("@")
    user, colon, password = user_info.partition(":")
    # The password may hold a slash, an @ or a colon. What begins with a port is an address.
    is_user_info = at and not any(character in user for character in "/?#")
    if is_user_info and colon and not _PORT.fullmatch(password):
        rest = f"{user}:{REDACTED}@{host}"
    elif is_user_info and not colon and len(user) >= SHORTEST:
        rest = f"{REDACTED}@{host}"  # a lone name is a user (git@), unless it is as long as a key
    return WEBHOOK.sub(rf"\1{REDACTED}", scheme + rest)


def _without_tokens(match: re.Match[str]) -> str:
    return TOKEN.sub(REDACTED, match[0])


def _without_named_values(text: str, lower: str, stems: tuple[str, ...]) -> str:
    if "authorization" in lower:
        text = _AUTHORIZATION.sub(rf"\1{REDACTED}", text)
    if "cookie:" in lower:
        text = _COOKIE_HEADER.sub(rf"\1{REDACTED}", text)
    if "bearer" in lower or "basic" in lower:
        text = _SCHEME_VALUE.sub(rf"\1\2{REDACTED}", text)
    if "password" in text and ("login" in text or "machine" in text):
        text = _NETRC.sub(rf"\1{REDACTED}", text)
    if "</" in text:
        text = _XML.sub(_without_element, text)
    return _without_assignments(text, stems)


def _without_element(match: re.Match[str]) -> str:
    return f"<{match[1]}>{REDACTED}" if is_secret_name(match[1]) else match[0]


@lru_cache(256)
def _search(stems: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(stems))


def _without_assignments(text: str, stems: tuple[str, ...]) -> str:
    """``text`` without the values that stand beside a secret name with one of ``stems``."""
    parts: list[str] = []
    done = 0  # up to here the text is in ``parts``
    position = 0
    lower = text.lower()
    for stem in _search(stems).finditer(lower if len(lower) == len(text) else text):
        if stem.start() < position:
            continue
        start = _name_start(text, stem.start(), position)
        position = _NAME_REST.match(text, stem.end()).end()  # type: ignore[union-attr]
        kind = secrecy(text[start:position].rpartition(".")[2])
        between = _BETWEEN.match(text, position) if kind is not Secrecy.NONE else None
        if between is None:
            continue
        end, replacement = _redact_value(text, start, between, kind)
        if replacement is not None:
            parts += (text[done : between.end()], replacement)
            done = end
        position = max(between.end(), end)
    return "".join((*parts, text[done:])) if parts else text


def _name_start(text: str, start: int, first: int) -> int:
    """Where the name begins that has a letter at ``start``, not before ``first``."""
    first = max(first, start - 200)
    while start > first and (text[start - 1].isalnum() or text[start - 1] in "_.-"):
        start -= 1
    return start


def _redact_value(
    text: str, name_start: int, between: re.Match[str], kind: Secrecy
) -> tuple[int, str | None]:
    """Where the value after ``between`` ends, and what takes its place; None if nothing has to."""
    start = between.end()
    quote = _QUOTE.match(text, start)
    if quote is not None:
        end = text.find(quote[1], quote.end(), quote.end() + _VALUE_CHARACTERS)
        if end < 0:
            end = _line_end(text, quote.end())
        value = text[quote.end() : end]
        is_pair = "," in between[0]
        if is_pair and kind is not Secrecy.SECRET and not is_credential(value):
            return end, None
        is_kept = not value or not _is_secret_value(value, kind, is_quoted=True)
        return end, None if is_kept else quote[0] + REDACTED
    if text[start : start + 1] in ("{", "[", "("):
        end = _closing_bracket(text, start)
        content = text[start:end]
        if _NUMBERS.fullmatch(content) or _SPECIAL_TOKEN.fullmatch(content):
            return end, None
        if kind is Secrecy.TOKENS:
            return end, _QUOTED_ITEM.sub(_without_credential, content)
        return end, REDACTED
    is_at_end = text[start : start + 1] in ("", "\n", "\r", "|", ">")
    if is_at_end and between[0].strip().endswith(":"):
        return _redact_block(text, name_start, start, kind)
    bare = _BARE.match(text, start)
    if bare is None or not _is_secret_value(bare[0], kind, is_quoted=False):
        return bare.end() if bare else start, None
    return bare.end(), REDACTED


def _is_secret_value(value: str, kind: Secrecy, *, is_quoted: bool) -> bool:
    if kind is Secrecy.TOKENS:
        return is_credential(value)
    if _SPECIAL_TOKEN.fullmatch(value) or value == REDACTED:
        return False
    if kind is Secrecy.TOKEN and _NUMBERS.fullmatch(value):
        return False
    return is_quoted or _NO_SECRET.fullmatch(value) is None


def _redact_block(text: str, name_start: int, start: int, kind: Secrecy) -> tuple[int, str | None]:
    """The lines below a ``name:`` that are indented more than it, as in YAML."""
    line_start = text.rfind("\n", 0, name_start) + 1
    prefix = text[line_start:name_start].rstrip("\"'")
    first_end = _line_end(text, start)
    if not _INDENT.fullmatch(prefix):
        return start, None
    end = first_end
    lines: list[str] = []
    while end < len(text):
        next_end = _line_end(text, end + 1)
        line = text[end + 1 : next_end]
        content = line.strip()
        indent = len(line) - len(line.lstrip())
        is_item = content.startswith("- ") and indent == len(prefix)
        if content and indent <= len(prefix) and not is_item:
            break
        lines.append(line)
        end = next_end
    if not any(line.strip() for line in lines):
        return first_end, None
    if kind is Secrecy.TOKENS:
        lines = [
            re.sub(r"\S+$", REDACTED, line) if is_credential(line.split()[-1]) else line
            for line in lines
            if line.split()
        ]
        return end, text[start:first_end] + "\n" + "\n".join(lines)
    return end, f"{text[start:first_end]}\n{' ' * (len(prefix) + 2)}{REDACTED}"


def _without_credential(match: re.Match[str]) -> str:
    quote, value, colon = match.groups()
    if colon or not is_credential(value):
        return match[0]  # a name, or a word
    return f"{quote}{REDACTED}{quote}"


def _closing_bracket(text: str, start: int) -> int:
    """Where the bracket that opens at ``start`` is closed; the end of the text if it is not."""
    depth = 0
    for index in range(start, min(len(text), start + _VALUE_CHARACTERS)):
        character = text[index]
        if character in "{[(":
            depth += 1
        elif character in "}])":
            depth -= 1
            if not depth:
                return index + 1
    return min(len(text), start + _VALUE_CHARACTERS)


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end


def _without_argument(match: re.Match[str], text: str) -> str:
    option, value = match.groups()
    before = text[max(match.start() - 200, 0) : match.end(1)]
    redacted = _argument(option, value, before)
    if redacted == value:
        return match[0]
    return match[0][: match.start(2) - match.start()] + redacted


def _argument(option: str, value: str, before: str) -> str:
    """``value``, or what takes its place if it is the secret of ``option``."""
    content = value.strip("\"'\\")
    if not content or _SPECIAL_TOKEN.fullmatch(content) or content == REDACTED:
        return value
    kind = secrecy(option.lstrip("-"))
    if kind in (Secrecy.SECRET, Secrecy.TOKEN):
        return value if content.startswith("--") or _is_placeholder(content) else REDACTED
    if option in _USERS:
        user, colon, password = content.partition(":")
        is_plain = not password or password.startswith("//") or (user + password).isdigit()
        return f"{user}{colon}{REDACTED}" if not is_plain else value
    if option in _PASSWORD_OPTIONS and not content.startswith("-"):
        if _PASSWORD_P.search(before):
            return REDACTED
        is_password = (
            option == "-p"
            and not any(character in content for character in "/:=.")
            and re.fullmatch(r"(?=\D*\d)(?=[^A-Za-z]*[A-Za-z])\S{6,}", content)
            and not _OTHER_P.search(before)
        )
        return REDACTED if is_password else value
    return value


def _is_placeholder(content: str) -> bool:
    return content.startswith("$") and _NO_SECRET.fullmatch(content) is not None
