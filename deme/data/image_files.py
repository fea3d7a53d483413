"""Image files below a folder."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from deme.data.decode import FORMATS, MAX_BYTES, Unreadable
from deme.system import Listing, MissingInput, first_line, list_files, logger

ORIENTATION, TURNED = 274, 5  # a tag of EXIF, and its first value that turns an image on its side
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def is_image(file: Path) -> bool:
    """Whether a file is an image by its name."""
    return file.suffix.lower() in SUFFIXES


class ImageFiles:
    """The image files that `list_files` lists below a folder, as a source of encoded images.

    What is left out is logged by reason, but for the files `used` otherwise. Raises MissingInput if
    there are no images.
    """

    def __init__(
        self, folder: Path, listing: Listing | None = None, used: Collection[Path] = ()
    ) -> None:
        self.folder = folder
        listing = listing or list_files(folder)
        self.files = list(filter(is_image, listing.files))
        if not self.files:
            raise MissingInput(f"{folder} holds no images ({', '.join(SUFFIXES)})")
        others = [file for file in listing.files if not is_image(file) and file not in used]
        if left_out := _by_reason(folder, listing.left_out, others):
            logger.info(f"{folder}: {len(self.files):,} images; left out are {left_out}")

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return str(self.files[index])

    def read(self, index: int) -> bytes:
        return read_image(self.files[index], self.name(index))

    def listing(self) -> str:
        """Return path, size and time of change of every file."""
        return "\n".join(listing(self.files))


class ChosenFiles(ImageFiles):
    """Given image files, in their order, as a source of encoded images."""

    def __init__(self, chosen: Sequence[Path]) -> None:
        self.files = list(chosen)


def _by_reason(folder: Path, left_out: dict[str, list[Path]], others: list[Path]) -> str:
    """Return the number of files left out for each reason, each with an example."""
    if others:
        suffixes = Counter(file.suffix.lower() or "no suffix" for file in others).most_common(3)
        kinds = ", ".join(suffix for suffix, _ in suffixes)
        left_out = {**left_out, f"other kinds of files ({kinds})": others}
    return "; ".join(
        f"{len(files):,} {reason}, such as {min(files).relative_to(folder)}"
        for reason, files in left_out.items()
    )


def read_image(file: Path, name: str) -> bytes:
    """Return an image file's bytes. Raises Unreadable, also for one of more than MAX_BYTES."""
    try:
        if file.exists() and not file.is_file():  # a pipe or a device may have no end
            raise Unreadable(name, "it is not a file")
        with open(file, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise Unreadable(name, getattr(error, "strerror", None) or str(error)) from error
    if len(data) > MAX_BYTES:
        raise Unreadable(name, f"it has more than {MAX_BYTES:,} bytes, which are never read")
    return data


def size_of(file: Path) -> tuple[int, int]:
    """Return width and height of an image file, upright, from its header. Raises Unreadable."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) >= TURNED
    except Exception as error:  # whatever Pillow makes of a header
        raise Unreadable(str(file), first_line(error)) from error
    return (height, width) if turned else (width, height)


def listing(files: Iterable[Path]) -> Iterator[str]:
    """Yield path, size and time of change of every file."""
    for file in files:
        stat = file.stat()
        yield f"{file} {stat.st_size} {stat.st_mtime_ns}"
