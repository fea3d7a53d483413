"""Prompts: every kind of file gives the same texts; templates and repeats; what is wrong with a file is said with its line."""

import json
import re

import pytest
import torch

from deme.data import CaptionedImages, InMemoryImages
from deme.data.prompts import Prompt, Prompts, held_out_prompts, load_prompts
from deme.system.errors import BadConfig, MissingInput, WorkFailed

TEXTS = ['a "red" cube', "two cats, asleep", "ein Hund, süß"]
OBJECTS = [{"prompt": text, "kind": "x", "seed": 10 + index} for index, text in enumerate(TEXTS)]

FILES = {
    "lines.txt": "\n".join(TEXTS),
    "dos.txt": "\ufeff" + "\r\n".join(TEXTS) + "\r\n\r\n",
    "table.csv": 'id,prompt\n1,"a ""red"" cube"\n2,"two cats,\nasleep \n"\n\n3,"ein Hund, süß"\n',
    "table.tsv": "Prompt\tCategory\n" + "".join(f"{text}\tx\n" for text in TEXTS),
    "list.json": json.dumps(TEXTS, indent=1),
    "objects.json": json.dumps(OBJECTS),
    "list.jsonl": "".join(f"{json.dumps(text)}\n" for text in TEXTS),
    "objects.jsonl": "\n".join(json.dumps({"Text": text}) for text in TEXTS) + "\n\n",
}


def write(folder, name, content):
    (folder / name).write_bytes(content.encode())
    return str(folder / name)


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_texts(name, tmp_path):
    prompts = load_prompts(write(tmp_path, name, FILES[name]))
    assert [prompt.text for prompt in prompts] == TEXTS
    assert (
        list(prompts)
        == [prompts[index] for index in range(len(prompts))]
        == [Prompt(text) for text in TEXTS]
    )
    assert prompts.name == name.rpartition(".")[0]


def test_columns_fill_a_prompt(tmp_path):
    rows = 'image_id,prompt,evaluation_seed,kind,part\n07,"a cat, asleep",41337,animals,asleep\n08,a red cube, 5,, \n'
    named = {"seed_column": "evaluation_seed", "category_column": "kind", "phrase_column": "part"}
    prompts = load_prompts(write(tmp_path, "x.csv", rows), **named)
    assert list(prompts) == [
        Prompt("a cat, asleep", 41337, "animals", "asleep"),
        Prompt("a red cube", 5),
    ]
    path = write(tmp_path, "x.json", json.dumps(OBJECTS))
    assert [p.seed for p in load_prompts(path, seed_column="seed")] == [10, 11, 12]
    assert [p.text for p in load_prompts(path, column="kind")] == ["x"] * 3


def test_the_template_takes_the_text_and_nothing_else(tmp_path):
    path = write(tmp_path, "x.txt", "crane\n{0} {braces}\n")
    assert [p.text for p in load_prompts(path, template="a photo of a {}")] == [
        "a photo of a crane",
        "a photo of a {0} {braces}",
    ]
    for template in ("a photo", "{} and {}", None):
        with pytest.raises(BadConfig, match=r"prompts.template must contain \{\} once"):
            load_prompts(path, template=template)


def test_the_first_prompts_come_repeated_in_a_row_and_then_without_seeds(tmp_path):
    path = write(tmp_path, "x.json", json.dumps(OBJECTS))
    prompts = load_prompts(
        path, seed_column="seed", category_column="kind", num_prompts=2, per_prompt=3
    )
    assert list(prompts) == [Prompt(text, None, "x") for text in TEXTS[:2] for _ in range(3)]
    assert list(load_prompts(path, seed_column="seed", num_prompts=1)) == [Prompt(TEXTS[0], 10)]
    for wrong in (0, 4, 1.5, True):
        with pytest.raises(BadConfig, match=r"num_prompts must be null .* at most 3"):
            load_prompts(path, num_prompts=wrong)
    for wrong in (0, None, "2"):
        with pytest.raises(BadConfig, match="per_prompt must be a whole number, at least 1"):
            load_prompts(path, per_prompt=wrong)


def test_the_hash_covers_every_prompt_and_not_the_name():
    def content(*prompts, name="x"):
        return Prompts(name, prompts).content_hash()

    one, other = Prompt("a"), Prompt("b")
    assert content(one, other) == content(one, other, name="y")
    variants = [one], [other, one], [one, other], [Prompt("a", 0), other], [Prompt("a", None, "c"), other], [Prompt("a", None, None, "c"), other]  # fmt: skip
    assert len({content(*prompts) for prompts in variants}) == len(variants)


@pytest.mark.parametrize(
    ("name", "content", "settings", "error", "message"),
    [
        ("x.csv", "a,b\n1,2\n", {}, BadConfig, "its columns: a, b\ntype: prompts.column=<column>"),
        ("x.csv", "prompt,text\n1,2\n", {}, BadConfig, "its columns: prompt, text"),
        ("x.tsv", "Prompt\n1\n", {"column": "prompt"}, BadConfig, "has no column 'prompt'; did you mean 'Prompt'? its columns: Prompt"),
        ("x.csv", "prompt,seed\na,1\n", {"seed_column": "sed"}, BadConfig, "no column 'sed'; did you mean 'seed'? its columns: prompt, seed\ntype: prompts.seed_column=<column>"),
        ("x.txt", "a\n", {"category_column": "kind"}, BadConfig, "prompts.category_column=kind\ntype: prompts.category_column=null"),
        ("x.txt", "a\n\nb\n", {}, BadConfig, "x.txt, line 2: the prompt is empty"),
        ("x.csv", "id,prompt\n1,a\n2, \n", {}, BadConfig, "x.csv, line 3: the prompt is empty (column prompt)"),
        ("x.csv", 'id,prompt\n1,"a\nb"\n2\n', {}, BadConfig, "x.csv, line 4: the prompt is empty (column prompt)"),
        ("x.jsonl", '{"prompt": "a"}\n{"text": "a"}\n', {"column": "prompt"}, BadConfig, "x.jsonl, line 2: the prompt is empty (column prompt)"),
        ("x.json", '["a", ""]', {}, BadConfig, "x.json, entry 2: the prompt is empty"),
        ("x.json", '[{"prompt": 3}]', {}, BadConfig, "x.json, entry 1: a text is expected, got 3"),
        ("x.json", '["a", 3]', {}, BadConfig, "x.json, entry 2: every entry must be a text, or every entry an object; got 3"),
        ("x.jsonl", '"a"\n{"prompt": "b"}', {}, BadConfig, "x.jsonl, line 2: every entry must be a text"),
        ("x.json", '{"prompt": "a"}', {}, BadConfig, "x.json must hold a list, of texts or of objects; it holds dict"),
        ("x.csv", "prompt,seed\na,1\nb,1.5\n", {"seed_column": "seed"}, BadConfig, "x.csv, line 3 (column seed): a seed is a whole number, at least 0; got '1.5'"),
        ("x.csv", "prompt,seed\na,-1\n", {"seed_column": "seed"}, BadConfig, "a seed is a whole number, at least 0; got '-1'"),
        ("x.json", '[{"prompt": "a", "seed": true}]', {"seed_column": "seed"}, BadConfig, "entry 1 (column seed): a seed is a whole number, at least 0; got True"),
        ("x.txt", " \n\n", {}, MissingInput, "x.txt holds no texts"),
        ("x.csv", "", {}, MissingInput, "x.csv holds no texts"),
        ("x.csv", "prompt\n", {}, MissingInput, "x.csv holds no texts"),
        ("x.json", "", {}, MissingInput, "x.json holds no texts"),
        ("x.json", "[]", {}, MissingInput, "x.json holds no texts"),
        ("x.json", '[\n"a",\n"b"', {}, WorkFailed, "x.json is damaged: not JSON at line 3: "),
        ("x.jsonl", '"a"\n"b\n', {}, WorkFailed, "x.jsonl, line 2 is damaged: not JSON: "),
        ("x.csv", "prompt\na\ntwo cats, asleep\n", {}, WorkFailed, "x.csv, line 3: 2 fields, the header has 1\n"),
        ("x.csv", 'prompt\na\n"b\nc\n', {}, WorkFailed, "x.csv, line 3: not a table: "),
        ("x.md", "a", {}, BadConfig, "x.md cannot be read as a file of texts; allowed: .txt, .csv, .tsv, .json, .jsonl"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(name, content, settings, error, message, tmp_path):
    with pytest.raises(error, match=re.escape(message)) as caught:
        load_prompts(write(tmp_path, name, content), **settings)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(MissingInput, match=r"none.csv does not exist"):
        load_prompts(str(tmp_path / "none.csv"))
    (tmp_path / "x.txt").write_bytes("süß".encode("latin-1"))
    with pytest.raises(WorkFailed, match=r"x.txt is damaged: it is not UTF-8 at byte 1"):
        load_prompts(str(tmp_path / "x.txt"))


def test_the_papers_prompts_hold_their_phrases():
    prompts = load_prompts("asset:paper_figure.json", phrase_column="lost_before_finetuning")
    assert len(prompts) == 4
    assert all(prompt.phrase and prompt.phrase in prompt.text for prompt in prompts)


def test_captions_are_prompts():
    images = InMemoryImages(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    prompts = held_out_prompts(CaptionedImages(images, TEXTS), num_prompts=2, per_prompt=2)
    assert list(prompts) == [Prompt(text) for text in TEXTS[:2] for _ in range(2)]
    assert [prompt.text for prompt in held_out_prompts(CaptionedImages(images, TEXTS))] == TEXTS
    with pytest.raises(BadConfig, match="type: data=captioned_images"):
        held_out_prompts(images)
    with pytest.raises(BadConfig, match=r"at most 3, .*; got 4"):
        held_out_prompts(CaptionedImages(images, TEXTS), num_prompts=4)
