"""What is typed behind `<key>=` on a command line: Hydra reads the value that was meant."""

import random
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from deme.runs import as_value

PARSER = OverridesParser.create()
PIECES = ["a", "B", "7", "_", "-", "+", ".", "/", "~", ":", "@", "$", "%", "?", "|", "*", "=", ",",
          " ", "\t", "\n", "'", '"', "\\", "\\\\", "\\'", '\\"', "[", "]", "{", "}", "(", ")", "#",
          "é", "图", "null", "True", "inf", "1e3", "0"]  # fmt: skip


def read(value):
    (override,) = PARSER.parse_overrides([f"x={as_value(value)}"])
    assert not override.is_sweep_override()
    return override.value()


@pytest.mark.parametrize(
    "text",
    ["", "plain", "a b", "my images, 2", "it's", 'the "best"', "C:\\new\\", "\\", "a\\'b", 'a\\"b',
     "[1,2]", "{a: b}", "f(x)", "a=b", "$HOME/x", "${a}", "~/images", "~", "-x", "+x", "50%", "#1",
     "é/图", "1", "1e3", "1_000", "-2.5", ".5", "null", "Null", "true", "False", "nan", "-inf",
     "/abs/path", "runs/s/train/finetune-s0-0123456789", "hub:owner/name@main", "a\nb"],
)  # fmt: skip
def test_a_text_is_that_text(text):
    assert read(text) == text
    assert read([text, "a", text]) == [text, "a", text]
    assert read({"key": text}) == {"key": text}


def test_texts_of_any_characters_are_these_texts():
    draw = random.Random(0)
    for _ in range(500):
        text = "".join(draw.choices(PIECES, k=draw.randrange(9)))
        assert read(text) == text
        assert read([text]) == [text]


def test_other_values_keep_their_types():
    for value in (None, True, False, 3, -1, 1e-05, 2.5, [], [1, None, "two words"], {}):
        found = read(value)
        assert found == value
        assert type(found) is type(value)
    assert read(Path("my images")) == "my images"
    assert read((Path("a"), 1)) == ["a", 1]


def test_what_needs_no_quotes_has_none():
    for text in ("runs/s-0", "/tmp/x.yaml", "asset:digits_base", "v1.2", "min_snr"):
        assert as_value(text) == text
