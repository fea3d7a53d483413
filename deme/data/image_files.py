"""Image files below a folder."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from deme.data.decode import Unreadable
from deme.system import MissingInput

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


class ImageFiles:
    """The image files below a folder, sorted by path, as a source of encoded images.

    Raises MissingInput if there are none.
    """

    def __init__(self, folder: Path) -> None:
        found = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        self.files = sorted(found)
        if not self.files:
            raise MissingInput(f"{folder} holds no images ({', '.join(SUFFIXES)})")

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return str(self.files[index])

    def read(self, index: int) -> bytes:
        try:
            return self.files[index].read_bytes()
        except OSError as error:
            raise Unreadable(self.name(index), error.strerror or str(error)) from error

    def listing(self) -> str:
        """Return path, size and time of change of every file."""
        return "\n".join(listing(self.files))


def listing(files: Iterable[Path]) -> Iterator[str]:
    """Yield path, size and time of change of every file."""
    for file in files:
        stat = file.stat()
        yield f"{file} {stat.st_size} {stat.st_mtime_ns}"
