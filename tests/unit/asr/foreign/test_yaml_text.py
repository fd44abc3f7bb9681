"""YAML from elsewhere is read within limits; nothing in it is resolved, repeated or made."""

import time
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from asr.foreign.files import ForeignError
from asr.foreign.yaml_text import MOST_NODES, parse_yaml, read_yaml
from scripts.composition.compose import CONF, compose

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    "options", [[], ["experiment=fsdd_digits"], ["model=ctc_conformer_tiny", "data=kaldi", "data.train=[a]"]]
)
def test_the_configuration_of_a_run_is_read_as_it_was_written(options: list[str]) -> None:
    config = compose("train", options)
    assert parse_yaml(OmegaConf.to_yaml(config), "config.yaml") == OmegaConf.to_container(config)


def test_numbers_are_read_as_omegaconf_reads_them() -> None:
    text = "[1, 1e-5, 1.0e-05, 2E3, .inf, -.5, 0x10, 1_000, '1', yes, null, ~, 2020-01-01, 12:30, abc]"
    assert parse_yaml(text, "x") == OmegaConf.to_container(OmegaConf.create(text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "it has aliases"),
        ("a: &a {b: *a}", "it has aliases"),
        ("a: " + "[" * 5000, "nested deeper than 32 levels"),
        ("- " * 5000, "nested deeper than 32 levels"),
        ("".join(" " * n + "k:\n" for n in range(200)), "nested deeper than 32 levels"),
        ("[" + "1," * 200_000 + "]", f"it has more than {MOST_NODES} values"),
        ("a: ${oc.env:HOME}", "line 1 has an interpolation"),
        ("a: 1\n'x${b}': 2", "line 2 has an interpolation"),
        ("a: ???", "line 1 has a value that is not set"),
        ("a: 1" + ":1" * 100_000, "a number of 200001 characters"),
        ("a: " + "9" * 400_000, "a number of 400000 characters"),
        ("a: !!python/object/apply:os.system [ls]", "python/object/apply:os.system', which this program never writes"),
        ("a: !!binary aGk=", "has the tag"),
        ("!!set {a, b}", "has the tag"),
        ("a: !!int x", "cannot be read"),
        ("? [1, 2]\n: 3", "has as a key '\\[1, 2\\]'"),
        ("1: 2", "has as a key '1'"),
        ("a: 1\na: 2", "line 2 has twice the key 'a'"),
        ("a: \0", "unacceptable character"),
        ("a: [1", "expected ',' or ']'"),
        ("---\na\n---\nb", "expected a single document"),
    ],
)
def test_what_is_beyond_a_limit_is_refused_soon_and_in_one_line(text: str, reason: str) -> None:
    begun = time.process_time()
    with pytest.raises(ForeignError, match=reason) as caught:
        parse_yaml(text, "config.yaml")
    assert time.process_time() - begun < 2
    assert str(caught.value).startswith("config.yaml: cannot be read: ")
    assert "\n" not in str(caught.value)


def test_the_value_of_a_variable_is_not_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "swordfish")
    with pytest.raises(ForeignError) as caught:
        parse_yaml("a: ${oc.env:SECRET}", "x")
    assert "swordfish" not in str(caught.value)


def test_a_merge_key_is_a_key() -> None:
    assert parse_yaml("<<: {a: 1}", "x") == {"<<": {"a": 1}}


def test_other_loaders_are_as_before() -> None:
    assert yaml.safe_load("a: &b 1\nc: *b") == {"a": 1, "c": 1}
    assert yaml.safe_load("a: 1e-5") == {"a": "1e-5"}


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: " + "b" * (1 << 20))
    with pytest.raises(ForeignError, match=r"larger than the 0\.5 MiB that a configuration may have"):
        read_yaml(tmp_path / "config.yaml")
    assert read_yaml(CONF / "report.yaml")
