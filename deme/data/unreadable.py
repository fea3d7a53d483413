"""Which images of a source cannot be decoded: determined once and kept in the cache."""

from pathlib import Path

import PIL

from deme.data.decode import open_image
from deme.data.encoded import ImageSource
from deme.data.in_memory_images import unreadable_among
from deme.system import files, logger, sha256_text

NAMED = 20  # in the message; the file in the cache names all

Damaged = list[tuple[int, str, str]]  # index, name, reason


def unreadable_in(source: ImageSource, cache: Path | None) -> set[int]:
    """Return the indices of the images that cannot be decoded, and log which they are.

    All images are decoded once per listing: names, sizes and times of change.
    """
    where = ""
    if cache is None:
        found = _decode_all(source)
    else:
        key = sha256_text(f"{PIL.__version__} {source.listing()}")[:32]
        file = cache / "unreadable" / f"{key}.json"
        with files.locked(
            file.with_suffix(".lock"),
            lambda owner: logger.info(f"{owner} is reading the images; waiting for it"),
        ):
            if not file.exists():
                files.write_json(file, _decode_all(source))
        found = files.read_json(file)
        where = f"; all of them: {file}"
    if found:
        named = ", ".join(f"{name} ({reason})" for _, name, reason in found[:NAMED])
        more = f" and {len(found) - NAMED:,} more{where}" if len(found) > NAMED else ""
        logger.info(
            f"{len(found):,} of {len(source):,} images cannot be read and are left out: "
            f"{named}{more}"
        )
    return {index for index, _, _ in found}


def _decode_all(source: ImageSource) -> Damaged:
    def check(index: int) -> None:
        open_image(source.read(index), source.name(index))

    errors = unreadable_among(check, len(source), "checking images")
    return [(index, error.name, error.reason) for index, error in errors.items()]
