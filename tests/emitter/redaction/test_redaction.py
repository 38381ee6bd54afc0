"""Secrets are redacted, and nothing else is."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from lineside.emitter.redaction.names import is_secret_name
from lineside.emitter.redaction.text import REDACTED, _redact, redact_text
from lineside.emitter.redaction.values import is_numeric
from lineside.emitter.spool.sanitize import Limits, Sanitizer
from tests.emitter.redaction.corpus import HARMLESS, planted


def redact(value: Any) -> Any:
    return Sanitizer().clean({"value": value})["value"]


HUB = "hf_" + "aB3" * 11
KEYS = [
    "sk-proj-" + "aB3_" * 10,
    "sk-ant-api03-" + "aB3-" * 10,
    "sk-" + "a1B2" * 10,
    "ghp_" + "a1B2" * 9,
    "github_pat_" + "a1B2" * 20,
    "xoxb-123456789012-abcdefABCDEF",
    "glpat-" + "a1B2c" * 4,
    "npm_" + "aB3d" * 9,
    "SG." + "aB3d_" * 4 + "aa." + "aB3d_" * 8,
    "AKIA" + "ABCDEFGHIJ234567",
    "AIzaSyD" + "a1" * 16,
    "gsk_" + "aB3d" * 12,
    "nvapi-" + "aB3d_" * 12,
    "dapi" + "a1" * 16,
    "123456789:AA" + "x1" * 17,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU" + "aB3d" * 12,
]
PIECES = [
    *(
        "a",
        "a.",
        "a..",
        "a://",
        "a:a://",
        "a://b:",
        "a://b@",
        "a:",
        'a="',
        "eyJ",
        "eyJa-",
        "\\",
        "=",
    ),
    *("token", "token=", "token: [", "token={", "token:\n ", "-p ", "-u a", "--password ", "key-"),
    *("login a ", "machine a password", "Bearer ", "Authorization: ", "<password>", "cookie:"),
    *("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "https://a/hooks", "//hooks."),
    *(
        "SG.a",
        "hf_",
        "a.b-",
        "|",
        "key|",
        " key , '",
        "password\n",
        "{[(",
        "A3T",
        "0" * 40,
        "_",
        "-",
    ),
]


@pytest.mark.parametrize(
    "name",
    [
        "hub_token",
        "push_to_hub_token",
        "token",
        "HF_TOKEN",
        "hubToken",
        "use_auth_token",
        "access_tokens",
        "wandb_api_key",
        "api-key",
        "apikey",
        "apiKey",
        "openai.api_key",
        "AWS_SECRET_ACCESS_KEY",
        "aws_access_key_id",
        "comet_key",
        "password",
        "db_passwd",
        "passphrase",
        "client_secret",
        "secrets",
        "credentials",
        "Authorization",
        "auth",
        "private_key",
        "sentry_dsn",
        "slack_webhook_url",
        "cookie",
    ],
)
def test_names_of_secrets_are_recognised(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "num_tokens",
        "max_new_tokens",
        "num_input_tokens_seen",
        "include_num_input_tokens_seen",
        "average_tokens_across_devices",
        "tokenizer",
        "tokenizer_name",
        "eos_token",
        "pad_token",
        "eos_token_id",
        "image_token",
        "decoder_start_token",
        "metric_for_best_model",
        "label_key",
        "key",
        "keyword",
        "author",
        "authors",
        "learning_rate",
        "monkey",
        "passes",
        "secretary_name",
    ],
)
def test_other_names_are_not_secret(name: str) -> None:
    assert not is_secret_name(name)


def test_secrets_are_redacted_at_every_depth() -> None:
    given: dict[str, Any] = {
        "model_init_kwargs": {"token": "mine", "dtype": "bfloat16", "deep": [{"api_key": "k"}]},
        "hub_token": "mine",
        "password": 1234,
        "credentials": {"user": "a", "key": "b"},
        "learning_rate": 5e-5,
    }
    hidden = redact(given)
    assert hidden == {
        "model_init_kwargs": {
            "token": REDACTED,
            "dtype": "bfloat16",
            "deep": [{"api_key": REDACTED}],
        },
        "hub_token": REDACTED,
        "password": REDACTED,
        "credentials": REDACTED,
        "learning_rate": 5e-5,
    }
    assert given["model_init_kwargs"]["deep"] == [{"api_key": "k"}]


def test_switches_and_empty_values_are_not_redacted() -> None:
    given: dict[str, Any] = {
        "hub_token": None,
        "use_auth_token": True,
        "password": "",
        "credentials": {},
    }
    assert redact(given) == given


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://me:pw@db/x", f"postgresql://me:{REDACTED}@db/x"),
        ("redis://:p@w@host:6379", f"redis://:{REDACTED}@host:6379"),
        (f"https://{HUB}@huggingface.co/a", f"https://{REDACTED}@huggingface.co/a"),
        ("git@github.com:a/b", "git@github.com:a/b"),
        ("ssh://git@github.com/a", "ssh://git@github.com/a"),
        ("https://h/p?a=1&token=abc&b=2", f"https://h/p?a=1&token={REDACTED}&b=2"),
        ("https://h:8080/p#x@y", "https://h:8080/p#x@y"),
        ("Authorization: Bearer abc.def.ghi", f"Authorization: {REDACTED} {REDACTED}"),
        ('{"hub_token": "a b", "n": 1}', f'{{"hub_token": "{REDACTED}", "n": 1}}'),
        (r"{\"api_key\": \"abc\"}", rf"{{\"api_key\": \"{REDACTED}\"}}"),
        ("trainer.hub_token=abc", f"trainer.hub_token={REDACTED}"),
        ("num_tokens=5 lr: 0.1", "num_tokens=5 lr: 0.1"),
        (f"tried {HUB} in vain", f"tried {REDACTED} in vain"),
        ("key AKIAABCDEFGHIJKLMNOP", f"key {REDACTED}"),
        ("tiny-gpt2 at /data/run", "tiny-gpt2 at /data/run"),
    ],
)
def test_secrets_in_a_text_are_redacted(text: str, expected: str) -> None:
    hidden = redact_text(text)
    if text.startswith("Authorization"):
        assert "abc" not in hidden
    else:
        assert hidden == expected


def test_no_form_of_a_secret_is_left() -> None:
    values, by_secret = planted("anywhere")
    published = repr([redact(value) for value in values])
    assert [form for secret, form in by_secret.items() if secret in published] == []


def test_ordinary_values_are_published_as_they_are() -> None:
    assert [(value, redact(value)) for value in HARMLESS if redact(value) != value] == []


@pytest.mark.parametrize("key", KEYS)
def test_keys_of_known_services_are_recognised_by_their_form(key: str) -> None:
    assert redact(f"tried {key}, in vain") == f"tried {REDACTED}, in vain"


def test_numbers_among_metrics_stay_whatever_their_names() -> None:
    metrics = {"password": 1, "num_tokens": 5, "api_key": 2.5, "nested": {"secret": 3}}
    data = {"logs": metrics, "metrics": metrics, "config": {"password": 1}}
    clean = Sanitizer().clean(data)
    assert (clean["logs"], clean["metrics"]) == (metrics, metrics)
    assert clean["config"] == {"password": REDACTED}


def test_a_secret_at_the_edge_of_a_cut_text_is_recognised() -> None:
    limits = Limits(text=100)
    for length in range(60, 110):
        clean = Sanitizer(limits).clean({"text": "x" * length + " " + HUB})["text"]
        assert HUB[:8] not in clean


@pytest.mark.parametrize("piece", PIECES)
def test_redacting_a_long_text_takes_time_linear_in_its_length(piece: str) -> None:
    def seconds(characters: int) -> float:
        text = piece * (characters // len(piece))
        started = time.process_time()
        _redact(text)
        return time.process_time() - started

    # Quadratic time would be 64 times as long, and minutes for some pieces.
    assert seconds(128 << 10) < 24 * min(seconds(16 << 10) for _ in range(3)) + 0.05


def test_only_the_secrets_of_a_command_line_are_redacted() -> None:
    argv = [
        "train.py",
        "--hub_token",
        "mine",
        "--api-key=mine",
        "--lr",
        "0.1",
        "--use_auth_token",
        "--model_init_kwargs",
        '{"token": "mine"}',
        "hub.token=mine",
        "--db",
        "mysql://u:mine@h/d",
        "--token",
    ]
    assert redact(argv) == [
        "train.py",
        "--hub_token",
        REDACTED,
        f"--api-key={REDACTED}",
        "--lr",
        "0.1",
        "--use_auth_token",
        "--model_init_kwargs",
        f'{{"token": "{REDACTED}"}}',
        f"hub.token={REDACTED}",
        "--db",
        f"mysql://u:{REDACTED}@h/d",
        "--token",
    ]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://b/x?X-Amz-Signature=deadbeef01", "https://b/x?X-Amz-Signature=<redacted>"),
        ("https://b/c?sv=2024&sig=abcDEF%3D", "https://b/c?sv=2024&sig=<redacted>"),
        ("Authorization: Token abc123", "Authorization: <redacted>"),
        ("use sk_live_abcdefghijklmnop1234", "use <redacted>"),
    ],
)
def test_signed_urls_headers_and_live_keys_are_redacted(text: str, kept: str) -> None:
    assert redact_text(text) == kept


def test_a_header_given_as_a_pair_is_redacted() -> None:
    assert redact([["x-api-key", "q"], ["lr", 1]]) == [["x-api-key", REDACTED], ["lr", 1]]


def test_numpy_floats_are_numbers_that_need_no_redaction() -> None:
    logs = {"logs": {"numpy_f1": np.float64(0.5)}, "numpy_loss": np.float64(1)}
    Sanitizer().clean(logs)
    assert is_numeric(logs)
    assert not is_numeric({"logs": {"numpy_f1": np.float32(0.5)}})
