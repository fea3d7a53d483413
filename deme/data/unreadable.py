"""Which images of a source cannot be decoded: found once, kept in the cache."""

from pathlib import Path

import PIL

from deme.data.decode import Unreadable, opened
from deme.data.decoded_once import Say, in_threads
from deme.data.encoded import Source
from deme.system import files

NAMED = 20  # in the log; the file in the cache names all

Verdict = list[tuple[int, str, str]]  # index, name, reason


def unreadable_in(source: Source, cache: Path | None, say: Say) -> set[int]:
    """Return the images that cannot be decoded, and say how many and which they are.

    They are looked for once per listing: names, sizes and times of change.
    """
    if cache is None:
        found = _look(source, say)
        where = ""
    else:
        file = (
            cache
            / "unreadable"
            / f"{files.sha256_text(f'{PIL.__version__} {source.listing()}')[:32]}.json"
        )
        with files.locked(
            file.with_suffix(".lock"),
            lambda owner: say(f"{owner} is reading the images; waiting for it"),
        ):
            if not file.exists():
                files.write_json(file, _look(source, say))
        found = [tuple(row) for row in files.read_json(file)]
        where = f"; all of them: {file}"
    if found:
        named = ", ".join(f"{name} ({reason})" for _, name, reason in found[:NAMED])
        more = f" and {len(found) - NAMED:,} more{where}" if len(found) > NAMED else ""
        say(
            f"{len(found):,} of {len(source):,} images cannot be read and are left out: {named}{more}"
        )
    return {index for index, _, _ in found}


def _look(source: Source, say: Say) -> Verdict:
    def look(index: int) -> Unreadable | None:
        try:
            opened(source.read(index), source.name(index))
        except Unreadable as error:
            return error
        return None

    errors = in_threads(look, range(len(source)), f"looking at {len(source):,} images", say)
    return [
        (index, error.name, error.reason) for index, error in enumerate(errors) if error is not None
    ]
