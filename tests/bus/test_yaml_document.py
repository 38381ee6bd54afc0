"""YAML documents: values as texts with their lines, variables, and the errors for faults."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineside.bus.errors import UsageError
from lineside.bus.yaml_document import DocumentError, YamlDocument, key_text, load

ENVIRONMENT = {"NAME": "value", "EMPTY": "", "SECRET": "5b1d2c", "TRICKY": "${NAME}: [&"}


def read(path: Path, text: str) -> YamlDocument:
    file = path / "file.yaml"
    file.write_text(text)
    return load(file, what="a file of tests", env=ENVIRONMENT)


def test_every_scalar_is_a_text_as_written_and_an_empty_one_is_none(tmp_path: Path) -> None:
    text = "{a: no, b: 1.10, c: 2024-01-01, d: ~, e: null, f: '', g: 'null', h: , i: [0x1, {k: v}]}"
    assert read(tmp_path, text).value == {
        "a": "no",
        "b": "1.10",
        "c": "2024-01-01",
        "d": None,
        "e": None,
        "f": "",
        "g": "null",
        "h": None,
        "i": ["0x1", {"k": "v"}],
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${NAME}", "value"),
        ("a-${NAME}/${NAME}", "a-value/value"),
        ("${ABSENT:-default}", "default"),
        ("${ABSENT:-}", ""),
        ("${EMPTY}", ""),
        ("${EMPTY:-default}", "default"),
        ("$NAME $ $$", "$NAME $ $$"),
        ("$${NAME}", "${NAME}"),
        ("'${NAME}'", "value"),
        ("${TRICKY}", "${NAME}: [&"),
    ],
)
def test_variables_are_replaced_once_and_dollars_elsewhere_stay(
    tmp_path: Path, text: str, value: str
) -> None:
    assert read(tmp_path, f"key: {text}").value == {"key": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n  b: ${ABSENT}", "line 2: a.b: the variable ABSENT is not set; set it, or write ${"),
        ("a: ${1}", "line 1: a: '${' is invalid; expected ${NAME}, ${NAME:-default}, or $${"),
        ("a: ${NAME", "line 1: a: '${' is invalid"),
        ("a: 1\nb: 2\na: 3", "line 3: a: is given twice, first on line 1; expected one value"),
        ("a:\n- {b: 1, b: 2}", "line 2: a[0].b: is given twice, first on line 2"),
        ("? [1]\n: 2", "line 1: a name is invalid; expected a text"),
        ("a: !!python/object:os.system x", "line 1: a: the tag tag:yaml.org,2002:python/object"),
        ("a: !env X", "line 1: a: the tag !env is not supported; expected a plain value"),
        ("a: &a {}\nb:\n  <<: *a", "line 3: b.<<: is not supported; expected the keys themselves"),
        ("a: &a [*a]", "line 1: a[0]: expected at most 20000 values, 20 deep, none in itself"),
        ("a: ${A:-${B:-7}}", "line 1: a: '${' is invalid; expected ${NAME}, ${NAME:-default}"),
        ("a: 1\nb: [", "line 2: is no YAML: expected the node content, but found '<stream end>'"),
        ("a: 1\n---\nb: 1", "line 2: is no YAML: but found another document"),
        ("a: *b", "line 1: is no YAML: found undefined alias 'b'; expected a file of tests"),
        ("a: \0", "line 1: is no YAML: "),
        ("[" * 3000, "line 1: is nested too deeply; expected a file of tests"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DocumentError) as error:
        read(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path}/file.yaml, {message}")


def test_a_byte_order_mark_and_line_ends_of_windows_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb:\r\n  c: 2\r\n")
    document = load(tmp_path / "file.yaml", what="a file of tests")
    assert document.value == {"a": "1", "b": {"c": "2"}}
    assert document.line(("b", "c")) == 3


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_bytes(b"a:\n  b: \xff")
    with pytest.raises(DocumentError, match="line 2: is no YAML: invalid start byte; expected"):
        load(tmp_path / "file.yaml", what="a file of tests")


def test_aliases_that_multiply_are_refused_in_time(tmp_path: Path) -> None:
    lines = [
        "a0: &a0 [x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)),
    ]
    with pytest.raises(DocumentError, match="expected at most 20000 values"):
        read(tmp_path, "\n".join(lines))


def test_aliases_that_deepen_are_one_fault_of_one_short_line(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000))]
    with pytest.raises(DocumentError, match="20 deep") as error:
        read(tmp_path, "\n".join(lines))
    assert len(str(error.value)) < 300


def test_a_fault_is_one_line_without_control_characters(tmp_path: Path) -> None:
    document = read(tmp_path, 'a: "x\\e[31m\\ny"')
    assert str(document.invalid(("a",), "a number")).endswith(
        r"line 1: a: 'x\x1b[31m\ny' is invalid; expected a number"
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: Is a directory; expected a file of te"):
        load(tmp_path, what="a file of tests")


def test_a_file_that_is_no_configuration_by_its_size_is_refused_at_once(tmp_path: Path) -> None:
    for path in (tmp_path / "log.json", Path("/dev/zero")):
        if not path.exists():
            path.write_text('{"loss": 1.0}\n' * 100_000)
        with pytest.raises(UsageError, match="is larger than 1 MiB; expected a file of tests"):
            load(path, what="a file of tests")


def test_every_fault_of_a_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as error:
        read(tmp_path, "a: ${A}\nb:\n- 1\n- c: ${B}\na: 1")
    assert [(one.line, one.key) for one in error.value.problems] == [
        (1, "a"),
        (4, "b[1].c"),
        (5, "a"),
    ]


def test_an_error_shows_the_value_as_written_and_never_a_variables(tmp_path: Path) -> None:
    document = read(tmp_path, "a: x${SECRET}\nb:\n  - {c: [1]}")
    assert str(document.invalid(("a",), "a number")).endswith(
        "line 1: a: 'x${SECRET}' is invalid; expected a number"
    )
    assert document.invalid(("b",), "a text").sentence == "a list is invalid; expected a text"
    assert (
        document.invalid(("b", 0), "a text").sentence
        == "a mapping of c is invalid; expected a text"
    )
    assert document.invalid(("b", 0, "d"), "a text") == document.problem(
        ("b", 0, "d"), "is missing; expected a text"
    )
    assert document.invalid(("b", 0, "d"), "a text").line == 3


def test_a_key_is_written_as_a_path() -> None:
    assert key_text(("stopper", "rules", 0, "patience")) == "stopper.rules[0].patience"
    assert key_text(()) == ""


@given(st.text(alphabet="ab:-[]{}&*!'\"#|>%@`$\n\t ~\\0,?", max_size=60))
def test_any_text_is_a_document_or_an_error_of_ours(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(DocumentError):
        read(Path(folder), text)


def test_typed_values_are_what_yaml_reads_with_variables_as_written(tmp_path: Path) -> None:
    text = (
        "{a: no, b: 1.10, c: 2024-01-01, d: ~, e: '5', f: 1e-4, g: [0x1, '${NAME}'], h: '${NAME}'}"
    )
    assert read(tmp_path, text).typed(()) == {
        "a": False,
        "b": 1.1,
        "c": "2024-01-01",
        "d": None,
        "e": "5",
        "f": 0.0001,
        "g": [1, "${NAME}"],
        "h": "${NAME}",
    }


def test_variables_stay_as_written_where_they_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("{kept: ['${ABSENT}'], other: '${NAME}'}")
    found = load(
        file, what="a file", env=ENVIRONMENT, keeps_variables=lambda key: key[:1] == ("kept",)
    )
    assert found.value == {"kept": ["${ABSENT}"], "other": "value"}
