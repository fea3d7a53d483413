"""Image files below a folder."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from deme.data.decode import Unreadable
from deme.system import MissingInput

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


class ImageFiles:
    """Files as a source of encoded images."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    @classmethod
    def below(cls, folder: Path) -> "ImageFiles":
        """Return the image files below a folder, sorted by path. Raises MissingInput for none."""
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise MissingInput(f"{folder} holds no images ({', '.join(SUFFIXES)})")
        return cls(files)

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
