"""What is found when every image of a source is decoded once: damaged images, and copies."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from typing_extensions import TypedDict

from deme.data.decode import Unreadable, open_image
from deme.data.encoded import ImageSource
from deme.system import WorkFailed, files, locked, logger, progress, read_cached, sha256_text

CHUNK = 1024  # images queued at once, so that a stop signal is obeyed soon
LISTED = 20  # of the images that are left out, in the message; the file in the cache names all


class Damaged(TypedDict):
    """An image that cannot be decoded."""

    index: int
    name: str
    reason: str


class Found(TypedDict):
    """What is kept in the cache."""

    damaged: list[Damaged]
    copies: list[list[int]]  # the indices of the images that show one picture, in order


class Inspection:
    """The images of a source that cannot be decoded, and those that show the same picture.

    All images are decoded once per listing: names, sizes and times of change.
    """

    def __init__(self, source: ImageSource, background: str, cache: Path | None) -> None:
        self.source = source
        self.file: Path | None = None
        if cache is None:
            found = _found(source, background)
        else:
            key = sha256_text(f"{PIL.__version__} {background} {source.listing()}")[:32]
            self.file = cache / "inspected" / f"{key}.json"
            with locked(
                self.file.with_suffix(".lock"),
                lambda owner: logger.info(f"{owner} is reading the images; waiting for it"),
            ):
                known = read_cached(self.file, Found)
                found = known or _found(source, background)
                if known is None:
                    files.write_json(self.file, found)
        self._damaged, self.copies = found["damaged"], found["copies"]

    def damaged(self) -> set[int]:
        """Return the indices of the images that cannot be decoded, and log which they are."""
        if self._damaged:
            logger.info(
                f"{len(self._damaged):,} of {len(self.source):,} images cannot be read and are "
                f"left out: {self._named()}"
            )
        return {one["index"] for one in self._damaged}

    def refuse_damaged(self) -> None:
        """Raise Unreadable for one image that cannot be decoded, WorkFailed for several."""
        if len(self._damaged) == 1:
            one = self._damaged[0]
            open_image(self.source.read(one["index"]), one["name"])
        if self._damaged:
            raise WorkFailed(
                f"{len(self._damaged):,} of {len(self.source):,} images cannot be read: "
                f"{self._named()}\nmove them away, or type: data.corrupt=skip"
            )

    def _named(self) -> str:
        first = self._damaged[:LISTED]
        named = ", ".join(f"{one['name']} ({one['reason']})" for one in first)
        more = f" and {len(self._damaged) - LISTED:,} more" * (len(self._damaged) > LISTED)
        where = f"; all of them: {self.file}" if more and self.file else ""
        return f"{named}{more}{where}"

    def log_copies(self, consequence: str = "") -> None:
        """Log how many images show the same picture as another, and an example."""
        if self.copies:
            count = sum(len(group) - 1 for group in self.copies)
            first, second, *_ = map(self.source.name, self.copies[0])
            logger.info(
                f"{count:,} of {len(self.source):,} images are exact copies of others, such as "
                f"{second} of {first}{consequence}"
            )


def _found(source: ImageSource, background: str) -> Found:
    pictures = np.zeros(len(source), np.uint64)  # a hash of the size and the pixels of each

    def look(index: int) -> None:
        image = open_image(source.read(index), source.name(index), 3, background)
        digest = hashlib.blake2b(repr(image.size).encode(), digest_size=8)
        digest.update(image.tobytes())
        pictures[index] = int.from_bytes(digest.digest(), "little")

    errors = unreadable_among(look, len(source), "checking images")
    whole = [index for index in range(len(source)) if index not in errors]
    _, which, counts = np.unique(pictures[whole], return_inverse=True, return_counts=True)
    groups = defaultdict(list)
    for place in np.flatnonzero(counts[which] > 1):
        groups[which[place]].append(whole[place])
    return {
        "damaged": [
            {"index": index, "name": error.name, "reason": error.reason}
            for index, error in errors.items()
        ],
        "copies": sorted(groups.values()),
    }


def unreadable_among(
    decode: Callable[[int], object], count: int, name: str
) -> dict[int, Unreadable]:
    """Call `decode(index)` for `count` images, in threads; return what it raises, by index.

    `name` is that of the step whose progress is shown.
    """

    def error_of(index: int) -> Unreadable | None:
        try:
            decode(index)
        except Unreadable as error:
            return error
        return None

    errors: list[Unreadable | None] = []
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        progress(name, count, "images") as bar,
    ):
        for start in range(0, count, CHUNK):
            chunk = range(start, min(start + CHUNK, count))
            errors += pool.map(error_of, chunk)
            bar.advance(len(chunk))
    return {index: error for index, error in enumerate(errors) if error is not None}
