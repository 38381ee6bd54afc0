"""Recognises from a name whether its value is a secret: ``hub_token``, ``apiKeys``, ``PGPASSWORD``.

The words are those of detect-secrets' keyword detector and of gitleaks' rules for single vendors.
"""

from __future__ import annotations

import enum
import re
from functools import lru_cache


class Secrecy(enum.Enum):
    """What of a value is secret. A float and a switch never are."""

    NONE = enum.auto()
    TOKENS = enum.auto()  # texts that look like credentials: it may be text or a count as well
    TOKEN = enum.auto()  # texts and containers, but no number
    SECRET = enum.auto()  # all of it


def words(text: str) -> list[str]:
    """The words of ``text``: a table of words is easier to read without quotes."""
    return text.split()


_LONGEST = 200  # a longer text is no name
_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SEPARATORS = re.compile(r"[^A-Za-z0-9]+")

# Secret wherever they stand in a name: ``secretsManager``, ``db_password_prod``.
_SECRET_WORDS = frozenset(
    words(
        "password passwords passwd passphrase passphrases passcode passcodes secret secrets "
        "credential credentials creds contrasena"
    )
)
# The same written together: ``PGPASSWORD``, ``clientsecret``.
_SECRET_ENDINGS = ("password", "passwd", "passphrase", "secret")
# Secret as the last word: ``db_pass``, but not ``pass_rate``.
_LAST_WORDS = frozenset(
    words(
        "pass pwd auth authentication authorization bearer cookie cookies jwt jwts pat pats dsn "
        "dsns otp mnemonic webhook webhooks sshpass kubeconfig netrc pgpass"
    )
)
# Of a request or, with no secret in it, of a function.
_SIGNATURES = frozenset(words("signature signatures sig"))
# What a name with one of these at its end holds is about a secret, and is none.
_NEUTRAL_ENDINGS = frozenset(
    words(
        "file files filename path paths dir folder name names type types length len size "
        "policy field fields column columns enabled required provider count counts num total "
        "rate accuracy loss score ratio version env variable scheme method mode expiry ttl "
        "class scope scopes"
    )
)
_KEY_OWNERS = words(
    "api access account admin app auth client comet consumer database db decryption deploy "
    "encryption hmac host license master priv private secret service session shared signing "
    "ssh storage subscription "
    # vendors
    "adafruit adobe airtable algolia alibaba anthropic anyscale asana atlassian aws azure "
    "bitbucket clearml cloudflare cohere confluent contentful databricks datadog deepseek "
    "discord dropbox elevenlabs facebook fastly fireworks finnhub gcp gemini github gitlab "
    "google grafana groq hf heroku hub hubspot huggingface intercom jina jfrog kaggle "
    "kraken kucoin langchain langfuse langsmith launchdarkly linear lob looker mailchimp "
    "mailgun mapbox minio mistral mlflow modelscope neptune netlify newrelic ngrok notion "
    "nvidia okta openai open_ai openrouter perplexity pinecone plaid qdrant rapidapi "
    "replicate runpod sendbird sendgrid sentry serpapi slack snyk sonar squarespace stripe "
    "swanlab tavily telegram together travis trello twilio twitch twitter typeform vastai "
    "voyage wandb weaviate xai yandex zendesk zhipu"
)
_KEY_NAME = re.compile(
    rf"(?:^|_)(?:{'|'.join(_KEY_OWNERS)})_?keys?(?:_(?:ids?|json|pem|data|value|b64|base64))?$"
)
_PHRASE = re.compile(
    r"""(?:^|_)(?:
        connection_strings? | conn_str | connstr | webhook_ur[li]s? | private_key_\w+
      | (?:sas|signed|presigned)_ur[li]s? | (?:recovery|backup)_codes? | seed_phrase
      | service_account(?:_(?:json|info|key))?
    )$""",
    re.VERBOSE,
)
_TOKEN_NAME = re.compile(
    r"(?:^|_)(?:auth|access|refresh|bearer|api|id|hf|hub|csrf|xsrf|session)?tokens?$"
)
_OWNERS_OF_TOKENS = words(
    "access api auth authentication bearer csrf deploy github gitlab hf hub huggingface "
    "login oauth personal refresh sas security service session slack vault wandb"
)
_OWNED_TOKENS = re.compile(
    rf"(?:^|_)(?:(?:{'|'.join(_OWNERS_OF_TOKENS)})_?tokens|(?:auth|access|refresh|api)tokens)$"
)
# Tokens of a vocabulary, not of an account.
_VOCABULARY_TOKENS = re.compile(
    r"""(?:^|_)(?:
        pad|eos|bos|unk|mask|sep|cls|image|video|audio|vision|boi|eoi|boa|eoa|start|end|stop|special
      | response|prompt|user|assistant|system|tool|think|thinking|reward|step|label|prefix|suffix
      | middle|fim|newline|next|first|last|max|min|num|per|decision|classification|placeholder
      | new|added|additional|extra|bad|forced|suppress|input|output|completion|generated|target
      | total|seen|virtual|word|text|sub|context
    )_tokens?$""",
    re.VERBOSE,
)


def is_secret_name(name: str) -> bool:
    """Whether ``name`` names a password, a key or an account's token."""
    return secrecy(name) in (Secrecy.SECRET, Secrecy.TOKEN)


@lru_cache(8_192)
def secrecy(name: str) -> Secrecy:
    """What of the value of ``name`` is secret."""
    if len(name) > _LONGEST:
        return Secrecy.NONE
    normalized = _SEPARATORS.sub("_", _CAMEL_CASE.sub("_", name)).lower().strip("_")
    words = normalized.split("_")
    if words[-1] in _NEUTRAL_ENDINGS:
        return Secrecy.NONE
    if (
        words[-1] in _LAST_WORDS
        or any(word in _SECRET_WORDS or word.endswith(_SECRET_ENDINGS) for word in words)
        or _KEY_NAME.search(normalized)
        or _PHRASE.search(normalized)
    ):
        return Secrecy.SECRET
    if words[-1] in _SIGNATURES:
        return Secrecy.TOKENS
    if not _TOKEN_NAME.search(normalized) or _VOCABULARY_TOKENS.search(normalized):
        return Secrecy.NONE
    is_plural = normalized.endswith("s") and not _OWNED_TOKENS.search(normalized)
    return Secrecy.TOKENS if is_plural else Secrecy.TOKEN
