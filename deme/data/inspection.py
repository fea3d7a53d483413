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

from deme.data.decode import Unreadable, is_grey, open_image
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
    sizes: list[list[int]]  # width, height, and how many undamaged images have them
    num_grey: int  # stored in grey levels


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
        self._sizes, self._num_grey = found["sizes"], found["num_grey"]

    @property
    def stored(self) -> str:
        """Which sizes in pixels the images are stored in, upright, and whether in grey or RGB."""
        if not self._sizes:
            return "no images"
        ends = self._by_area if self.of_one_size else [self._by_area[0], self._by_area[-1]]
        sizes = " to ".join(f"{width} x {height}" for width, height, _ in ends)
        num_rgb = sum(count for _, _, count in self._sizes) - self._num_grey
        numbers = {"RGB": num_rgb, "grey": self._num_grey}
        kinds = [f"{count:,} {kind}" for kind, count in numbers.items() if count]
        return f"stored in {sizes} pixels, {' and '.join(kinds)}"

    @property
    def _by_area(self) -> list[list[int]]:
        return sorted(self._sizes, key=lambda each: (each[0] * each[1], each))

    @property
    def smallest(self) -> tuple[int, int]:
        """Width and height of the image with the fewest pixels."""
        if not self._sizes:
            raise WorkFailed(f"none of {len(self.source):,} images can be read: {self._named()}")
        width, height, _ = self._by_area[0]
        return width, height

    @property
    def of_one_size(self) -> bool:
        """Whether all images have the same width and height."""
        return len(self._sizes) == 1

    @property
    def all_grey(self) -> bool:
        """Whether all images are stored in grey levels."""
        return self._num_grey == sum(count for _, _, count in self._sizes)

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
    sizes, grey = np.zeros((len(source), 2), np.int64), np.zeros(len(source), bool)

    def look(index: int) -> None:
        data = source.read(index)
        image = open_image(data, source.name(index), 3, background)
        sizes[index], grey[index] = image.size, is_grey(data)
        digest = hashlib.blake2b(repr(image.size).encode(), digest_size=8)
        digest.update(image.tobytes())
        pictures[index] = int.from_bytes(digest.digest(), "little")

    errors = unreadable_among(look, len(source), "checking images")
    whole = [index for index in range(len(source)) if index not in errors]
    different, numbers = np.unique(sizes[whole], axis=0, return_counts=True)
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
        "sizes": np.column_stack([different, numbers]).tolist(),
        "num_grey": int(grey[whole].sum()),
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
