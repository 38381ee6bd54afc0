"""Values that hold a secret in every form that scripts publish, and values that hold none."""

from __future__ import annotations

import random
from typing import Any

PLACEHOLDER = "%SECRET%"
"""Stands for the secret in ``PLANTED``."""
_KEY_BLOCK = (
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA%SECRET%\n-----END RSA PRIVATE KEY-----"
)

PLANTED: list[Any] = [
    # Private keys, whole, cut at either end, escaped and split into lines.
    _KEY_BLOCK,
    f"the key is {_KEY_BLOCK} and more",
    _KEY_BLOCK.replace("\n", "\\n"),
    _KEY_BLOCK[:-34],
    _KEY_BLOCK[40:],
    _KEY_BLOCK.splitlines(),
    {"certificate": _KEY_BLOCK.encode().decode()},
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQOYBF%SECRET%",
    # Headers.
    "Bearer %SECRET%",
    "Authorization: Bearer %SECRET%",
    "curl -H 'Authorization: token %SECRET%' https://h",
    {"headers": {"Authorization": "Bearer %SECRET%"}},
    {"headers": [["x-api-key", "%SECRET%"]]},
    "X-Api-Key: %SECRET%",
    "Cookie: session=%SECRET%; theme=dark",
    "Set-Cookie: session=%SECRET%",
    # Names.
    {"api_key": "%SECRET%"},
    {"api_keys": {"openai": "%SECRET%"}},
    {"apiKeys": ["%SECRET%"]},
    {"passwords": ["%SECRET%", "b"]},
    {"tokens": {"hf": "%SECRET%"}},
    {"tokens": ["%SECRET%"]},
    {"secretsManager": {"value": "%SECRET%"}},
    {"HFToken": "%SECRET%"},
    {"authToken": "%SECRET%"},
    {"model_init_kwargs": {"deep": [{"token": "%SECRET%"}]}},
    {"env": {"WANDB_API_KEY": "%SECRET%", "PGPASSWORD": "%SECRET%"}},
    {"name": "OPENAI_API_KEY", "value": "%SECRET%"},
    {"columns": ["user", "api_key"], "data": [["me", "%SECRET%"]]},
    # Names in a text.
    "api_key: %SECRET%",
    "api_keys: {'openai': '%SECRET%'}",
    '{"passwords": ["%SECRET%"]}',
    '{\\"api_key\\": \\"%SECRET%\\"}',
    "tokens={'hf': '%SECRET%'}",
    "Config(api_keys={'a': '%SECRET%'}, lr=1)",
    "api_keys:\n  openai: %SECRET%\n  other: %SECRET%\nlr: 1",
    "passwords:\n- %SECRET%\n- %SECRET%\nlr: 1",
    "tokens:\n  hf: %SECRET%\n",
    "export HF_TOKEN=%SECRET%",
    'os.environ["HF_TOKEN"] = "%SECRET%"',
    "('api_key', '%SECRET%')",
    "| api_key | %SECRET% |",
    "<password>%SECRET%</password>",
    "Server=h;User=u;Password=%SECRET%;Port=1",
    "DefaultEndpointsProtocol=https;AccountKey=%SECRET%==;EndpointSuffix=core",
    "KeyError: hub_token=%SECRET%",
    # Addresses.
    "postgresql://me:%SECRET%@db/x",
    "postgresql://me:pa/%SECRET%@db/x",
    "redis://:p@%SECRET%@host:6379",
    "http://me:/%SECRET%@proxy:3128/p?x=1",
    "jdbc:postgresql://h/db?user=u&password=%SECRET%",
    "https://b.s3.amazonaws.com/x?X-Amz-Signature=%SECRET%",
    "https://hooks.slack.com/services/T00/B00/%SECRET%",
    "https://discord.com/api/webhooks/123/%SECRET%",
    "https://x.webhook.office.com/webhookb2/%SECRET%/IncomingWebhook/a",
    "https://hooks.zapier.com/hooks/catch/1/%SECRET%",
    "https://mattermost.example.com/hooks/%SECRET%",
    "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=%SECRET%",
    "https://open.feishu.cn/open-apis/bot/v2/hook/%SECRET%",
    # Command lines.
    "train.py --password %SECRET%",
    "train.py --password=%SECRET% --lr 1",
    "cmd -p %SECRET%",
    "mysql -u root -p %SECRET% db",
    "sshpass -p %SECRET% ssh host",
    "docker login -u me -p %SECRET% registry",
    "curl -u me:%SECRET% https://h",
    "curl --user 'me:%SECRET%' https://h",
    "wandb login %SECRET%",
    ["train.py", "--hub_token", "%SECRET%"],
    ["curl", "-u", "me:%SECRET%"],
    ["cmd", "-p", "%SECRET%"],
    # Files.
    "machine github.com login me password %SECRET%",
    "machine api.wandb.ai\n  login user\n  password %SECRET%\n",
    "default login me password %SECRET%",
]

HARMLESS: list[Any] = [
    "constant",
    "tokenizer: GPT2TokenizerFast",
    "max_new_tokens=512",
    "pad_token_id: 0",
    "eos_token: </s>",
    "pad_token='<pad>'",
    {"eos_token": "</s>", "eos_token_id": 2, "tokenizer_class": "LlamaTokenizer"},
    {"max_new_tokens": 5, "num_tokens": 3, "tokens_per_second": 4.5, "eval_token_accuracy": 0.5},
    {"special_tokens": {"bos_token": "<s>", "pad_token": "[PAD]"}},
    {"stop_tokens": ["</s>", "END"], "tokens": ["the", "##ing", "</s>"]},
    {"tokens": {"prompt": 5, "total": 9}},
    {"tokens": [1, 2, 3], "token": 5},
    "tokens: [1, 2, 3]",
    "loss: 2.31, tokens: 1024, tok/s: 5000",
    "| step | tokens |\n|---|---|\n| 1 | 512 |",
    {"columns": ["token", "label"], "data": [["hello", "B-PER"]]},
    ["token", "label"],
    ["input_ids", "labels"],
    "/data/run/checkpoint-100/model.safetensors",
    "model.layers.0.self_attn.q_proj.weight",
    "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3",
    {"commit": "a94a8fe5ccb19ba61c4c0873d391e987982fbbd3"},
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "ACCAGTGACCTGATCGATCG",
    "sk-learn-style-classification-model",
    "2026-11-29T02:35:02+00:00",
    "20261121T082653.481-4f2a",
    "git@github.com:a/b",
    "ssh://git@github.com/a",
    "https://h:8080/p#x@y",
    "https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct",
    "https://huggingface.co/datasets/x/resolve/main/webhooks/readme.md",
    "gs://bucket/x@y",
    "auth: none, sig=0.5, password: no",
    "write to me@example.com",
    "python train.py --lr 1e-4 --tokenizer gpt2 -p /data/x",
    "ssh -p 22 host",
    "docker run -p 8080:80 -u 1000:1000 image",
    "sbatch -p gpu8x run.sh",
    "Basic tokenizer for Japanese",
    "bearer token missing",
    "token 5 of 10",
    "An essay about the auth system, passports and patterns; signature dishes, cookie recipes.",
    {"authors": ["A B"], "keywords": ["x"], "key": "value", "label_key": "labels"},
    {"pass@1": 0.5, "pass_rate": 0.3},
    {"hub_token": None, "use_auth_token": True, "password": "", "credentials": {}},
    "def f(token: str, password: Optional[str] = None) -> None:",
    "password=None, token=self.args.hub_token",
    "ValueError: bad value for 'lr': 5",
    "No columns in the dataset match the model's forward method signature: (input_ids, labels).",
]


def planted(place: str) -> tuple[list[Any], dict[str, Any]]:
    """``PLANTED`` with a secret of its own in each value, and the value of each secret."""
    random_source = random.Random(place)
    values, by_secret = [], {}
    for value in PLANTED:
        secret = f"S3cr3t{random_source.randrange(10**9):09}Pa55"
        values.append(_with_secret(value, secret))
        by_secret[secret] = value
    return values, by_secret


def _with_secret(value: Any, secret: str) -> Any:
    if isinstance(value, str):
        return value.replace(PLACEHOLDER, secret)
    if isinstance(value, list):
        return [_with_secret(item, secret) for item in value]
    if isinstance(value, dict):
        return {name: _with_secret(item, secret) for name, item in value.items()}
    return value
