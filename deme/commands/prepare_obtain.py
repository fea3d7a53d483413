"""How `deme prepare` obtains one file: from a folder or by download; then it is installed."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deme.commands.prepare_install import install, install_finished, make
from deme.commands.prepare_items import Item, missing_content
from deme.runs import SourceSettings, Suite
from deme.system import (
    MissingInput,
    WorkFailed,
    disk_errors,
    exists,
    locked,
    logger,
    make_parents,
)
from deme.system.downloads import Expected, download, download_repository

DOWNLOADS = "downloads"  # folder of files that are only needed until they are unpacked or converted


def obtain(item: Item, suite: Suite, from_folder: Path | None, fetch: bool) -> None:
    """Obtain an item from the folder `from_folder`, else by download if `fetch`, and install it.

    Raises MissingInput for a file that cannot be obtained, WorkFailed for a file that is not the
    expected one, DiskError, and the errors of its conversion.
    """
    if item.source is None:
        raise MissingInput(
            f"no file of {suite.file} says where {item.place} comes from\nput it at {item.path}"
        )
    lock = item.path.with_name(f".{item.path.name}.prepare.lock")  # conversion has its own lock
    with locked(
        lock, lambda owner: logger.info("%s is obtaining %s", owner, item.path), remove=True
    ):
        if item.problem is None:  # another process was faster
            return
        if exists(item.path):
            raise WorkFailed(f"{item.path} is there: {item.problem}\ndelete it, or move it away")
        _Request(item, item.source, suite, from_folder, fetch).obtain()


@dataclass(frozen=True)
class _Request:
    """An item to obtain, and the places it may come from."""

    item: Item
    source: SourceSettings
    suite: Suite
    from_folder: Path | None
    fetch: bool

    def obtain(self) -> None:
        raw = self._found(self.source.file_name) if self.source.is_one_file else None
        if raw is not None and raw.is_file():
            self._expected.check(raw, raw)
            install(raw, self.item, self.source)
        elif (finished := self._found(self.item.path.name)) is not None:
            if self.source.is_left_as_it_is:
                self._expected.check(finished, finished)
            install_finished(finished, self.item, self.source)
        elif self.source.make is not None:
            make(self.item, self.source, self.suite)
        elif self.source.hub is not None:
            self._check_allowed()
            self._from_hub(self.source.hub)
        elif self.source.url is None:
            raise MissingInput(
                f"{self.source.file_name}, for {self.item.place}, has to be downloaded by you: "
                f"{self.source.by_hand}\n"
                f"then type: {self.suite.prepare} from=<its folder>"
            )
        elif self.source.is_left_as_it_is:
            self._check_allowed()
            download(self.source.url, self.item.path, self._expected)
        else:
            self._check_allowed()
            with self._downloaded(self.source.url) as archive:
                install(archive, self.item, self.source)

    @property
    def _expected(self) -> Expected:
        return Expected(self.source.bytes, self.source.sha256, self.source.md5)

    def _found(self, name: str) -> Path | None:
        """Return the file or folder with this name in `from_folder`, at any depth."""
        if self.from_folder is None:
            return None
        if exists(self.from_folder / name):
            return self.from_folder / name
        return next(iter(sorted(self.from_folder.rglob(name))), None)

    def _check_allowed(self) -> None:
        """Log the licence of a download. Raises MissingInput unless fetch=true was typed."""
        if not self.fetch:
            raise MissingInput(
                f"{self.source.file_name} is not in {self.from_folder}, for {self.item.place}\n"
                f"to download it, type: {self.suite.prepare} fetch=true"
            )
        terms = f"; {self.source.accept}" if self.source.accept else ""
        logger.info("%s: licence: %s%s", self.item.place, self.source.licence, terms)

    @property
    def _downloads(self) -> Path:
        """The folder of temporary downloads, in the same folder of `paths` as the item."""
        return self.item.path.parents[len(Path(self.item.place).parts) - 2] / DOWNLOADS

    @contextlib.contextmanager
    def _downloaded(self, url: str) -> Iterator[Path]:
        """Yield a downloaded file for use in the block; if the block succeeds, delete it."""
        raw = self._downloads / self.source.file_name
        try:
            if not raw.is_file():  # checked before it got its name
                download(url, raw, self._expected)
            yield raw
            with disk_errors(raw), contextlib.suppress(FileNotFoundError):
                raw.unlink()
        finally:
            with contextlib.suppress(OSError):  # other files are in it
                raw.parent.rmdir()

    def _from_hub(self, repository: str) -> None:
        folder = self._downloads / repository.replace("/", "--")
        path, patterns = self.item.path, list(self.source.patterns)
        logger.info("downloading %s from the Hugging Face Hub", repository)
        download_repository(repository, self.source.revision, patterns, folder)
        with disk_errors(path):
            make_parents(path)
            if path.name in patterns:  # one file of it
                if not (folder / path.name).is_file():
                    raise MissingInput(f"{repository} on the Hub has no file {path.name}")
                (folder / path.name).replace(path)
                shutil.rmtree(folder)
            else:
                if lacking := missing_content(folder, self.source):
                    raise MissingInput(
                        f"{lacking} is missing in the downloaded files of {repository} on the Hub"
                    )
                folder.rename(path)
            with contextlib.suppress(OSError):  # other files are in it
                folder.parent.rmdir()
