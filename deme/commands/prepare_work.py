"""How `deme prepare` gets at one file: taken from a folder, or downloaded; then it is installed."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deme.commands.prepare_install import install, make, take_over
from deme.commands.prepare_items import Item, what_lacks
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

DOWNLOADS = "downloads"  # folder of what is only there to be unpacked or converted


def obtain(item: Item, suite: Suite, carried: Path | None, fetch: bool) -> None:
    """Bring an item to its place, from the folder `carried`, else from its source if `fetch`.

    Raises MissingInput for what cannot be had, WorkFailed for what is another file than expected,
    DiskError, and what its conversion raises.
    """
    if item.source is None:
        raise MissingInput(
            f"no file of {suite.file} says where {item.place} comes from\nput it at {item.path}"
        )
    lock = item.path.with_name(f".{item.path.name}.prepare.lock")  # converting has its own
    with locked(lock, lambda owner: logger.info("%s brings %s", owner, item.path), remove=True):
        if item.problem is None:  # another process was faster
            return
        if exists(item.path):
            raise WorkFailed(f"{item.path} is there: {item.problem}\ndelete it, or move it away")
        _Delivery(item, item.source, suite, carried, fetch).bring()


@dataclass(frozen=True)
class _Delivery:
    """An item that is brought, and from where it may be."""

    item: Item
    source: SourceSettings
    suite: Suite
    carried: Path | None
    fetch: bool

    def bring(self) -> None:
        raw = self._found(self.source.file_name) if self.source.is_one_file else None
        if raw is not None and raw.is_file():
            self._expected.check(raw, raw)
            install(raw, self.item, self.source)
        elif (finished := self._found(self.item.path.name)) is not None:
            if self.source.is_left_as_it_is:
                self._expected.check(finished, finished)
            take_over(finished, self.item, self.source)
        elif self.source.make is not None:
            make(self.item, self.source, self.suite)
        elif self.source.hub is not None:
            self._check_allowed()
            self._from_hub(self.source.hub)
        elif self.source.url is None:
            raise MissingInput(
                f"{self.source.file_name}, for {self.item.place}, must be brought by a person: "
                f"{self.source.by_hand}\n"
                f"then type: {self.suite.prepare} from=<folder that it lies in>"
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
        """Return the file or folder of a name in the folder of what was carried, or below it."""
        if self.carried is None:
            return None
        if exists(self.carried / name):
            return self.carried / name
        return next(iter(sorted(self.carried.rglob(name))), None)

    def _check_allowed(self) -> None:
        """Say the licence of what is downloaded. Raises MissingInput if nothing may be."""
        if not self.fetch:
            raise MissingInput(
                f"{self.source.file_name} is not in {self.carried}, for {self.item.place}\n"
                f"to download it, type: {self.suite.prepare} fetch=true"
            )
        terms = f"; {self.source.accept}" if self.source.accept else ""
        logger.info("%s: licence: %s%s", self.item.place, self.source.licence, terms)

    @property
    def _downloads(self) -> Path:
        """The folder of downloads, below the same one of `paths` as the item."""
        return self.item.path.parents[len(Path(self.item.place).parts) - 2] / DOWNLOADS

    @contextlib.contextmanager
    def _downloaded(self, url: str) -> Iterator[Path]:
        """Yield a file that is only there for the block, and is deleted when that succeeds."""
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
        logger.info("downloading %s of the Hub", repository)
        download_repository(repository, self.source.revision, patterns, folder)
        with disk_errors(path):
            make_parents(path)
            if path.name in patterns:  # one file of it
                if not (folder / path.name).is_file():
                    raise MissingInput(f"{repository} on the Hub has no file {path.name}")
                (folder / path.name).replace(path)
                shutil.rmtree(folder)
            else:
                if lacking := what_lacks(folder, self.source):
                    raise MissingInput(
                        f"{repository} on the Hub is without {lacking}, as far as it was taken"
                    )
                folder.rename(path)
            with contextlib.suppress(OSError):  # other files are in it
                folder.parent.rmdir()
