"""Secrets leave the files of a checkpoint, and nothing else changes."""

from __future__ import annotations

import collections
import contextlib
import enum
import io
import json
import pickle  # noqa: TID251 - the test writes what training writes, and reads it back
import pickletools
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import SchedulerType, TrainingArguments

from lineside.emitter.redaction.text import REDACTED, redact_text
from lineside.emitter.redaction.values import mask_names, mask_texts
from lineside.store.archive.errors import SourceChanged
from lineside.store.archive.source_file import of_folder
from lineside.subscribers.archiver.files import pickled
from lineside.subscribers.archiver.files.pickled import InvalidPickle
from lineside.subscribers.archiver.files.redaction import Redaction
from lineside.subscribers.archiver.files.scrub import scrub, scrub_arguments, scrub_json
from lineside.subscribers.archiver.files.scrub_pickle import scrub_pickle
from tests.emitter.redaction.corpus import HARMLESS, planted

REDACTION = Redaction(redact_text, mask_names, mask_texts)
KEY = "hf_" + "aB3" * 11
SECRET = "correct-horse"  # noqa: S105 - it is one by its name alone
MEMOIZED = "".join(["correct", "-battery"])


class Mode(enum.Enum):
    BASIC = "basic-auth"


class Vault:
    """An object that pickles as a call with the secret."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __reduce__(self) -> Any:
        return Vault, (self.secret,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vault) and other.secret == self.secret

    __hash__ = None  # type: ignore[assignment]


@dataclass
class OwnArguments(TrainingArguments):
    """A script's own arguments."""

    wandb_api_key: str | None = None
    endpoint: str = "https://me:pass4word@host/x"
    model_init_kwargs: dict[str, Any] = field(default_factory=dict)


def saved(value: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def loaded(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)


def scrubbed(value: object, **options: Any) -> Any:
    data = scrub_arguments(saved(value, **options), REDACTION)
    assert data is not None
    assert SECRET.encode() not in _all_bytes(data)
    assert KEY.encode() not in _all_bytes(data)
    return loaded(data)


def _all_bytes(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        return data + b"".join(opened.read(name) for name in opened.namelist())


def facts(arguments: Any) -> dict[str, Any]:
    return {name: str(value) for name, value in vars(arguments).items()}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arguments_load_and_differ_only_in_their_secrets(tmp_path: Path, protocol: int) -> None:
    arguments = OwnArguments(
        output_dir=str(tmp_path),
        hub_token=KEY,
        wandb_api_key=SECRET,
        model_init_kwargs={"token": SECRET, "dtype": "bfloat16", "nested": [{"x": KEY}, 5]},
        report_to="none",
        lr_scheduler_type="cosine",
        use_cpu=True,
    )
    arguments.device  # a torch.device among the arguments  # noqa: B018
    found = scrubbed(arguments, pickle_protocol=protocol)
    assert type(found) is OwnArguments
    assert found.hub_token == found.wandb_api_key == REDACTED
    assert found.model_init_kwargs["token"] == REDACTED
    assert found.model_init_kwargs["nested"] == [{"x": REDACTED}, 5]
    assert found.model_init_kwargs["dtype"] == "bfloat16"
    assert found.endpoint == f"https://me:{REDACTED}@host/x"
    assert found.lr_scheduler_type is SchedulerType.COSINE
    changed = {name for name, value in facts(arguments).items() if facts(found)[name] != value}
    assert changed == {"hub_token", "wandb_api_key", "model_init_kwargs", "endpoint"}
    assert facts(found).keys() == facts(arguments).keys()


# trl 1.16 sets a name that transformers 5.23 has given up.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["SFTConfig", "GRPOConfig", "DPOConfig"])
def test_arguments_of_trl_load_and_differ_only_in_their_secrets(tmp_path: Path, name: str) -> None:
    trl = pytest.importorskip("trl")
    given: dict[str, Any] = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    kwargs = {"token": SECRET, "attn_implementation": "eager"}
    arguments = getattr(trl, name)(**given, hub_token=KEY, model_init_kwargs=kwargs)
    found = scrubbed(arguments)
    assert found.hub_token == REDACTED
    assert found.model_init_kwargs == {"token": REDACTED, "attn_implementation": "eager"}
    changed = {name for name, value in facts(arguments).items() if facts(found)[name] != value}
    assert changed == {"hub_token", "model_init_kwargs"}


def test_arguments_without_a_secret_stay_byte_for_byte(tmp_path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    assert scrub_arguments(saved(arguments), REDACTION) is None


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_values_of_every_kind_keep_their_place_in_the_memo(protocol: int) -> None:
    shared = ["a list that is used twice"]
    both = MEMOIZED  # one text, a secret by one name and none by another
    cycle: list[Any] = [SECRET]
    cycle.append(cycle)
    value = {
        "password": both,
        "note": both,
        "notes": [both, shared, shared],
        "api_keys": collections.OrderedDict(openai=SECRET, shared=shared, mode=Mode.BASIC),
        "credentials": Vault(SECRET),
        "auth": {"user": SECRET, "set": {SECRET, "x"}, "pair": (SECRET, 1)},
        "secret_bytes": SECRET.encode(),
        "array": bytearray(KEY.encode()),
        "secret_number": 12345,
        KEY: "a key as a name",
        "cookies": cycle,
        "mode": Mode.BASIC,
        "numbers": (1, -1, 2**40, 2**2000, 0.5, True, None, 1 << 15, b"\x00\xff"),
        "same": shared,
        "defaults": collections.defaultdict(list, a=[1]),
        "frozen": frozenset({"x"}),
    }
    data = scrub_pickle(pickle.dumps(value, protocol), REDACTION)
    assert data is not None
    assert SECRET.encode() not in data
    assert KEY.encode() not in data
    found = pickle.loads(data)  # noqa: S301 - the test made it
    assert found["password"] == REDACTED
    assert found["note"] == both
    assert found["notes"] == [both, shared, shared]
    assert found["notes"][1] is found["notes"][2]
    for name in ("api_keys", "credentials", "auth", "cookies"):
        assert found[name] == REDACTED
    assert found[REDACTED] == "a key as a name"
    assert found["mode"] is Mode.BASIC
    for name in ("numbers", "same", "defaults", "frozen"):
        assert found[name] == value[name]
    assert found["secret_number"] == REDACTED


def test_every_secret_of_the_corpus_leaves_and_nothing_harmless_does() -> None:
    values, by_secret = planted("arguments")
    data = scrub_pickle(pickle.dumps({"values": values}), REDACTION)
    assert data is not None
    left = [form for secret, form in by_secret.items() if secret.encode() in data]
    assert left == []
    assert scrub_pickle(pickle.dumps({"values": HARMLESS}), REDACTION) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no zip"),
        (b"\x80\x02N.", "no zip"),
        (saved({"hub_token": KEY})[:-30], "no zip"),
        (saved({"hub_token": KEY}, _use_new_zipfile_serialization=False), "no zip"),
    ],
)
def test_arguments_that_cannot_be_followed_are_left_out_and_named(
    data: bytes, why: str, tmp_path: Path
) -> None:
    (tmp_path / "training_args.bin").write_bytes(data)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    found = scrub(of_folder(tmp_path), REDACTION)
    assert [file.path for file in found.files] == ["model.safetensors"]
    assert list(found.left_out) == ["training_args.bin"]
    assert why in found.left_out["training_args.bin"]


def test_arguments_that_are_nested_too_deep_are_left_out() -> None:
    value: Any = SECRET
    for _ in range(5000):
        value = (value,)
    deep = b"\x80\x02" + b"X\x01\x00\x00\x00a" + b"\x85" * 5000 + b"."
    with pytest.raises(InvalidPickle, match="too deep"):
        scrub_pickle(deep, REDACTION)


def test_a_pickle_that_grows_without_end_is_left_out() -> None:
    doubling = b"\x80\x02X\x01\x00\x00\x00aq\x00" + b"2\x86" * 40 + b"."
    with pytest.raises(InvalidPickle, match="more than"):
        scrub_pickle(doubling, REDACTION)


def test_nothing_in_a_pickle_is_called(tmp_path: Path) -> None:
    marker = tmp_path / "called"

    class Touches:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    data = pickle.dumps({"token": SECRET, "x": Touches()})
    assert scrub_pickle(data, REDACTION) is not None
    assert not marker.exists()


def test_json_keeps_its_numbers_and_its_layout() -> None:
    config = {
        "model_type": "bert",
        "label2id": {"O": 0, "B-PASSWORD": 1, "I-SECRET": 2},
        "id2label": {"0": "password", "1": "secret"},
        "bos_token": "<s>",
        "pad_token_id": 0,
        "auto": {"token": SECRET, "name": "Zoë"},
        "loss": [float("nan"), 1e-8, 123456789012345678901234567890],
    }
    for layout in ({}, {"indent": 2}, {"indent": 4, "ensure_ascii": False}):
        text = json.dumps(config, **layout)  # type: ignore[arg-type]
        found = scrub_json(text.encode() + b"\n", REDACTION)
        assert found == text.replace(SECRET, REDACTED).encode() + b"\n"
        harmless = text.replace(SECRET, "").encode()
        assert scrub_json(harmless, REDACTION) is None


def test_a_text_that_is_no_json_is_scrubbed_as_a_text() -> None:
    found = scrub_json(b'{"api_key": "' + SECRET.encode() + b'", cut', REDACTION)
    assert found is not None
    assert SECRET.encode() not in found


def test_texts_are_scrubbed_and_tensors_and_vocabularies_stay(tmp_path: Path) -> None:
    texts = {
        "trainer_state.json": json.dumps({"log_history": [{"loss": 0.5, "x": KEY}]}),
        "adapter_config.json": json.dumps({"tokenizer_kwargs": {"token": SECRET}}),
        "sub/args.json": json.dumps({"hub_token": SECRET}),
        "token.json": json.dumps({"access_token": SECRET}),
        "config.yaml": f"hub_token: {SECRET}\nlr: 1\n",
        "README.md": f"export HF_TOKEN={SECRET}\n",
    }
    others = {
        "optimizer.pt": saved({"state": torch.ones(3)}),
        "tokenizer.json": json.dumps({"vocab": {"password": 5, "token": "x"}}).encode(),
        "added_tokens.json": b'{"<secret>": 50257, "password": 50258}',
        "model.safetensors.index.json": b'{"weight_map": {"auth.secret": "a.safetensors"}}',
        "model.safetensors": KEY.encode(),
    }
    (tmp_path / "sub").mkdir()
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    files = of_folder(tmp_path)
    found = scrub(files, REDACTION)
    assert found.left_out == {}
    assert [file.path for file in found.files] == [file.path for file in files]
    assert {file.path for file in found.files if file.scrubbed} == texts.keys()
    for file in found.files:
        with file.open() as opened:
            content = opened.read()
        assert len(content) == file.size
        if file.path in others:
            assert content == others[file.path]
        else:
            assert SECRET.encode() not in content
            assert KEY.encode() not in content


def test_a_file_that_changes_while_it_is_scrubbed_is_named(tmp_path: Path) -> None:
    state = tmp_path / "trainer_state.json"
    state.write_text("{}")
    files = of_folder(tmp_path)
    state.write_text('{"a": 1}')
    with pytest.raises(SourceChanged, match=r"trainer_state\.json changed"):
        scrub(files, REDACTION)
    state.unlink()
    with pytest.raises(SourceChanged, match=r"trainer_state\.json went"):
        scrub(files, REDACTION)


def test_a_pickle_that_is_cut_short_has_no_structure() -> None:
    data = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01X\x01\x00\x00\x00b](K\x02K\x03eu."
    whole = pickled.parse(data)
    assert [{name: item.plain for name, item in one.items()} for one in whole.mappings()] == [
        {"a": 1, "b": None}
    ]
    boundaries = [at for _, _, at in pickletools.genops(data) if at]
    for end in (*boundaries, *range(len(data) - 1)):
        with pytest.raises(pickled.InvalidPickle):
            pickled.parse(data[:end])


UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAMES = st.sampled_from(
    ["password", "hub_token", "tokens", "cookies", "lr", "name", "value", "columns", "data", "x"]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text('ab \N{SNOWMAN}\n:="', max_size=8),
    st.sampled_from([SECRET, MEMOIZED, KEY, f"https://me:{SECRET}@host", f"api_key={SECRET}"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def redacted(value: Any) -> Any:
    """A copy of ``value`` with each text redacted."""
    if isinstance(value, dict):
        return {name: redacted(item) for name, item in value.items()}
    if isinstance(value, list):
        return [redacted(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value


@given(st.dictionaries(NAMES, VALUES, max_size=5), st.sampled_from([0, 2, 4]))
@UNHURRIED
def test_a_scrubbed_pickle_is_the_pickle_of_the_redacted_values(
    value: dict[str, Any], protocol: int
) -> None:
    data = pickle.dumps(value, protocol)
    found = pickle.loads(scrub_pickle(data, REDACTION) or data)  # noqa: S301 - the test made it
    assert found == mask_names(redacted(value))


@given(st.data())
@UNHURRIED
def test_a_damaged_pickle_is_refused_or_scrubbed(data: st.DataObject) -> None:
    damaged = bytearray(pickle.dumps({"token": SECRET, "mode": [Mode.BASIC, 1, b"x", (2.5,)]}, 4))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidPickle):
        scrub_pickle(bytes(damaged), REDACTION)
