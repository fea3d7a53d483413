"""Prompts: the texts that images are generated from, read from a file or taken from captions."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from deme.data import Captioned, Images
from deme.data.text_table import Row, chosen, one_line, read_table
from deme.system import BadConfig, locate, sha256_text


@dataclass(frozen=True)
class Prompt:
    """A text and, where its file has them, its image's seed, its category and its key phrase."""

    text: str
    seed: int | None = None
    category: str | None = None
    phrase: str | None = None


@dataclass(frozen=True)
class Prompts:
    """Prompts in a fixed order, one for each image, each repeated `per_prompt` times in a row.

    `name` labels them in tables and is no part of the hash.
    """

    name: str
    prompts: tuple[Prompt, ...]
    per_prompt: int = 1

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Prompt:
        return self.prompts[index]

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def content_hash(self) -> str:
        """Return a sha256 of every prompt and their order."""
        return sha256_text(json.dumps([asdict(prompt) for prompt in self.prompts]))


def load_prompts(
    path: str,
    column: str | None = None,
    seed_column: str | None = None,
    category_column: str | None = None,
    phrase_column: str | None = None,
    template: str = "{}",
    num_prompts: int | None = None,
    per_prompt: int = 1,
) -> Prompts:
    """Return the first `num_prompts` prompts of a txt, csv, tsv, json or jsonl file.

    Each text takes the place of {} in `template`. With `per_prompt` > 1 each is repeated that often
    in a row, without the file's seeds, so that repeats differ. `column` None is the only column
    called prompt, caption or text. Raises BadConfig, MissingInput, WorkFailed.
    """
    if not isinstance(template, str) or template.count("{}") != 1:
        raise BadConfig(
            f"prompts.template must contain {{}} once, for the text, got {template!r}\n"
            "type: 'prompts.template=\"a photo of a {}\"'"
        )
    place = locate(path)
    table = read_table(place)
    texts = chosen(table.columns, column, "prompts.column", str(place))
    named = {"seed": seed_column, "category": category_column, "phrase": phrase_column}
    for kind, name in named.items():
        if name is not None:
            chosen(table.columns, name, f"prompts.{kind}_column", str(place))

    def prompt(row: Row) -> Prompt:
        where = f"{place}, {row.place}"
        text = one_line(row.values.get(texts), where)
        if not text:
            raise BadConfig(
                f"{where}: the prompt is empty" + (f" (column {texts})" if texts else "")
            )
        seed = None
        if seed_column is not None:
            seed = _seed(row.values.get(seed_column), f"{where} (column {seed_column})")
        category, phrase = (
            None if name is None else one_line(row.values.get(name), where) or None
            for name in (category_column, phrase_column)
        )
        return Prompt(template.replace("{}", text), seed, category, phrase)

    rows = table.rows[: _number(num_prompts, len(table.rows), str(place))]
    return _repeated(place.stem, map(prompt, rows), per_prompt)


def held_out_prompts(
    images: Images, num_prompts: int | None = None, per_prompt: int = 1
) -> Prompts:
    """Return the captions of the first `num_prompts` images. Raises BadConfig if there are none."""
    if not isinstance(images, Captioned):
        raise BadConfig(
            "prompts=captions needs captioned images, and these have no captions\n"
            "type: data=captioned_images"
        )
    indices = range(_number(num_prompts, len(images), "the set of images"))
    return _repeated("captions", map(Prompt, images.captions(list(indices))), per_prompt)


def _seed(value: object, where: str) -> int:
    digits = str(value).strip()
    if isinstance(value, bool) or not digits.isdecimal():
        raise BadConfig(f"{where}: a seed is a whole number, at least 0; got {value!r}")
    return int(digits)


def _number(num_prompts: int | None, available: int, where: str) -> int:
    if num_prompts is None:
        return available
    if not _is_count(num_prompts) or num_prompts > available:
        raise BadConfig(
            "prompts.num_prompts must be null (all) or a whole number, at least 1 and at most "
            f"{available:,}, the number of prompts in {where}; got {num_prompts!r}"
        )
    return num_prompts


def _repeated(name: str, prompts: Iterable[Prompt], per_prompt: int) -> Prompts:
    if not _is_count(per_prompt):
        raise BadConfig(
            f"prompts.per_prompt must be a whole number, at least 1; got {per_prompt!r}"
        )
    if per_prompt > 1:
        prompts = [replace(prompt, seed=None) for prompt in prompts for _ in range(per_prompt)]
    return Prompts(name, tuple(prompts), per_prompt)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
