"""Download files with resume; a file gets its final name only after it has been checked.

Files with an address are downloaded with requests, which handles proxies and redirects;
repositories of the Hugging Face Hub with its own library.
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

CHUNK = 1 << 16  # bytes written at once; a lost connection costs at most these
TRIES = 4  # in a row without progress
PAUSE = 1.0  # seconds before the second try, twice as many before the third
TIMEOUT = 60.0  # seconds without data
MB = 1e6
PAGE = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)
TITLE = re.compile(rb"<title[^>]*>\s*([^<]{1,80})", re.IGNORECASE)
AGAIN = "run the same command again; the part that was downloaded is kept"


@dataclass(frozen=True)
class Expected:
    """The expected size in bytes and checksums (all or their first digits) of a file."""

    size: int | None = None
    sha256: str | None = None
    md5: str | None = None

    def check(self, file: Path, name: object) -> None:
        """Raise WorkFailed if `file`, named `name` in messages, is not the expected one."""
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
    """Return the path of a file during its download."""
    return target.with_name(f".{target.name}.part")


def download(url: str, target: Path, expected: Expected) -> None:
    """Download `url` to `target`, which appears only when it is complete and checked.

    A partial download of an earlier call or a killed process is kept next to it, and resumed if the
    server supports that. Raises MissingInput if the file cannot be obtained (no network, no such
    file, a web page in its place), WorkFailed for a file that is not the expected one, DiskError
    for a full disk.
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
                response = error.response
                if (
                    response is not None
                    and response.status_code < 500
                    and response.status_code != 429
                ):
                    reason = f"the server returned {response.status_code} {response.reason}"
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
    """Append the rest of the file to `part`. Raises requests' errors if it is cut short."""
    import requests

    start = _size(part)
    if size is not None and start == size:
        return
    headers = {"Accept-Encoding": "identity"}  # its own bytes
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if start and response.status_code == 416:  # it is not longer than what is there
            part.unlink()
            raise requests.ConnectionError("the file has another size than before")
        response.raise_for_status()
        if "text/html" in response.headers.get("Content-Type", "").lower():
            raise _page(url, next(response.iter_content(CHUNK), b""))
        if not _continues(response, start):
            start = 0
        total = _total(response, start)
        if total and size is not None and total != size:
            raise WorkFailed(
                f"{url} is not the expected file: the server has {total:,} bytes, expected {size:,}"
            )
        with (
            open(part, "ab" if start else "wb") as file,
            progress(name, total / MB if total else None, "MB", start / MB) as bar,
        ):
            for chunk in response.iter_content(CHUNK):
                if not file.tell() and PAGE.match(chunk):
                    raise _page(url, chunk)
                file.write(chunk)
                bar.advance(len(chunk) / MB)


def _continues(response: "requests.Response", start: int) -> bool:
    """Whether a response begins where the partial file ends; not all servers support this."""
    begins = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    return response.status_code == 206 and begins


def _total(response: "requests.Response", start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    packed = response.headers.get("Content-Encoding", "identity") != "identity"
    return start + int(length) if length.isdigit() and not packed else None


def _page(url: str, text: bytes) -> MissingInput:
    title = TITLE.search(text)
    called = f" ({title[1].decode(errors='replace').strip()!r})" if title else ""
    return MissingInput(
        f"{url} cannot be downloaded: the response is a web page{called} instead of the file, as "
        "proxies and login pages give\nopen the address in a browser to see it"
    )


def _reason(error: BaseException) -> str:
    """Return the innermost cause of an error of requests, which nests several."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "strerror", None) or first_line(error)


def download_repository(
    repository: str, revision: str | None, patterns: list[str], folder: Path
) -> None:
    """Download files of a Hugging Face Hub repository to a folder, resumed and checked by size.

    Raises MissingInput if they cannot be obtained, DiskError for a full disk.
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
