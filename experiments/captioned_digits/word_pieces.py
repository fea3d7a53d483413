"""A tokenizer of CLIP's kind for the words of the captions.

Every known word is one token; other words are spelled in bytes.
"""

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from deme.data.captioned_digits import NUMERALS, TEMPLATES
from deme.system import files

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 16  # positions of the text encoder, START and END among them
WORDS = {
    *NUMERALS,
    *" ".join(TEMPLATES).replace("{}", "").split(),
    "an",
    "by",
    "hand",
    "image",
    "number",
    "picture",
    "written",
}


def merges_of(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges (Sennrich et al. 2016) that make each word one symbol.

    The most frequent pair comes first.
    """
    spelled = [[*word[:-1], f"{word[-1]}</w>"] for word in sorted(words)]
    merges = []
    while counts := Counter(pair for word in spelled for pair in pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for word in spelled:
            for at in reversed(range(len(word) - 1)):
                if tuple(word[at : at + 2]) == best:
                    word[at : at + 2] = ["".join(best)]
    return merges


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write a tokenizer to `folder` and return it as read from there.

    transformers 4 and 5 can read it, offline.
    """
    merges = merges_of(WORDS)
    letters = sorted(ByteLevel.alphabet())
    symbols = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *map("".join, merges),
        START,
        END,
    ]
    vocabulary = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols))}
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "do_lower_case": True,
        **special,
    }
    files.write_text(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False) + "\n")
    files.write_text(
        folder / "merges.txt", "\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n"
    )
    files.write_json(folder / "tokenizer_config.json", settings)
    files.write_json(folder / "special_tokens_map.json", special)
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
