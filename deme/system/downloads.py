"""Download a file: resumed where it was cut, and under its name only once it is what was expected.

With requests, which speaks to proxies and follows redirects; repositories of the Hugging Face Hub
with its own library.
"""

import hashlib
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deme.system.console import progress
from deme.system.disk import disk_error, disk_errors, full_disk, make_parents
from deme.system.errors import DiskError, MissingInput, WorkFailed, first_line

if TYPE_CHECKING:
    import requests

CHUNK = 1 << 16  # bytes that a cut connection may cost
TRIES = 4  # in a row that bring no further byte
PAUSE = 1.0  # seconds before the second of them, twice as many before the third
TIMEOUT = 60.0  # seconds without a byte
MB = 1e6
PAGE = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)
TITLE = re.compile(rb"<title[^>]*>\s*([^<]{1,80})", re.IGNORECASE)
AGAIN = "run the same command again; what is there already is kept"


@dataclass(frozen=True)
class Expected:
    """What is known of a file: its size in bytes, its sums or their first digits."""

    size: int | None = None
    sha256: str | None = None
    md5: str | None = None

    def check(self, file: Path, name: object) -> None:
        """Raise WorkFailed if `file`, which messages call `name`, is another one."""
        found = file.stat().st_size
        if self.size is not None and found != self.size:
            raise WorkFailed(
                f"{name} is not the expected file: it has {found:,} bytes, expected {self.size:,}"
            )
        for kind, wanted in (("sha256", self.sha256), ("md5", self.md5)):
            if wanted is not None:
                with open(file, "rb") as opened:
                    digest = hashlib.file_digest(opened, kind).hexdigest()
                if not digest.startswith(wanted):
                    raise WorkFailed(
                        f"{name} is not the expected file: its {kind} is {digest}, "
                        f"expected {wanted}"
                    )


def partial_file(target: Path) -> Path:
    """Return where a file lies while it is downloaded."""
    return target.with_name(f".{target.name}.part")


def download(url: str, target: Path, expected: Expected) -> None:
    """Bring the file at `url` to `target`, where it appears whole and checked.

    What an earlier call, or a killed process, has brought is kept beside it and continued, if the
    server can do that. Raises MissingInput where the file cannot be had: no network, no such file,
    or a web page in its place; WorkFailed for another file, DiskError for a full disk.
    """
    import requests

    part = partial_file(target)
    failures = 0
    with disk_errors(target):
        make_parents(target)
        _check_space(part, expected.size)
        while True:
            before = _size(part)
            try:
                _continue(url, part, target.name, expected.size)
                break
            except requests.RequestException as error:
                answer = error.response
                if answer is not None and answer.status_code < 500 and answer.status_code != 429:
                    reason = f"the server answers {answer.status_code} {answer.reason}"
                    raise MissingInput(f"{url} cannot be downloaded: {reason}") from error
                failures = 1 if _size(part) > before else failures + 1
                if failures == TRIES:
                    have = f", after {_size(part):,} bytes" if _size(part) else ""
                    raise MissingInput(
                        f"{url} cannot be downloaded{have}: {_reason(error)}\n{AGAIN}"
                    ) from error
                time.sleep(PAUSE * 2 ** (failures - 1))
        try:
            expected.check(part, url)
        except WorkFailed as error:
            part.unlink()
            raise WorkFailed(f"{error}\nit was deleted; run the same command again") from error
        with open(part, "rb") as file:
            os.fsync(file)  # whole after a power cut, too
        part.replace(target)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _check_space(part: Path, size: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if size is not None and size - _size(part) > free:
        raise DiskError(
            f"{part.parent} has {free / MB:,.0f} MB free, and {size / MB:,.0f} MB are needed\n"
            "free some space and run it again"
        )


def _continue(url: str, part: Path, name: str, size: int | None) -> None:
    """Append to `part` what it lacks. Raises requests' errors when that is cut short."""
    import requests

    start = _size(part)
    if size is not None and start == size:
        return
    headers = {"Accept-Encoding": "identity"}  # its own bytes
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if start and answer.status_code == 416:  # it is not longer than what is there
            part.unlink()
            raise requests.ConnectionError("the file has another size than before")
        answer.raise_for_status()
        if "text/html" in answer.headers.get("Content-Type", "").lower():
            raise _page(url, next(answer.iter_content(CHUNK), b""))
        if not _continues(answer, start):
            start = 0
        total = _total(answer, start)
        if total and size is not None and total != size:
            raise WorkFailed(
                f"{url} is not the expected file: the server has {total:,} bytes, expected {size:,}"
            )
        with (
            open(part, "ab" if start else "wb") as file,
            progress(name, total / MB if total else None, "MB", start / MB) as bar,
        ):
            for chunk in answer.iter_content(CHUNK):
                if not file.tell() and PAGE.match(chunk):
                    raise _page(url, chunk)
                file.write(chunk)
                bar.advance(len(chunk) / MB)


def _continues(answer: "requests.Response", start: int) -> bool:
    """Whether an answer begins where what is there ends; not all servers can."""
    begins = answer.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    return answer.status_code == 206 and begins


def _total(answer: "requests.Response", start: int) -> int | None:
    length = answer.headers.get("Content-Length", "")
    packed = answer.headers.get("Content-Encoding", "identity") != "identity"
    return start + int(length) if length.isdigit() and not packed else None


def _page(url: str, text: bytes) -> MissingInput:
    title = TITLE.search(text)
    called = f" ({title[1].decode(errors='replace').strip()!r})" if title else ""
    return MissingInput(
        f"{url} cannot be downloaded: the answer is a web page{called} instead of the file, as "
        "proxies and login pages give\nopen the address in a browser to see it"
    )


def _reason(error: BaseException) -> str:
    """Return the innermost reason of an error of requests, which wraps them several times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or first_line(error)


def download_repository(
    repository: str, revision: str | None, patterns: list[str], folder: Path
) -> None:
    """Bring files of a repository on the Hugging Face Hub to a folder, resumed and checked by size.

    Raises MissingInput where they cannot be had, DiskError for a full disk.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    try:
        snapshot_download(
            repository, revision=revision, allow_patterns=patterns or None, local_dir=str(folder)
        )
    except Exception as error:
        refused = error if isinstance(error, PermissionError) else full_disk(error)
        if refused is not None:
            raise disk_error(folder, refused) from error
        page = f"https://huggingface.co/{repository}"
        advice = (
            f"accept its terms at {page}, then type: hf auth login"
            if isinstance(error, GatedRepoError)
            else AGAIN
        )
        raise MissingInput(f"{page} cannot be downloaded: {first_line(error)}\n{advice}") from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)
