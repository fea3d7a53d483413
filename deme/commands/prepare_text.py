"""The output of `deme prepare`: a report on the files of a suite, and a download script."""

import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from deme.commands.prepare_items import Item
from deme.report.terminal import text_table
from deme.runs import SourceSettings, Suite
from deme.system import duration, size_text

PACE = 10e6  # bytes per second, assumed for the duration of downloads


def report(suite: Suite, items: Sequence[Item], missing: Sequence[Item]) -> Iterator[str]:
    """Yield which files exist, which are missing with their sources, and the next command."""
    yield f"{suite.title} ({suite.file})"
    if not items:
        yield f"its runs need no files below paths.data and paths.models\n{_next(suite, missing)}"
        return
    yield f"{len(items) - len(missing)} of {len(items)} files and folders are there"
    yield text_table(None, ["file or folder", "state", "download", "for"], [*_lines(items)], 4)
    for item in missing:
        yield ""
        yield from _details(item)
    if missing:
        yield ""
        yield from _disk(missing)
        untried = sum(s.make is None and not s.tried for s in (i.source for i in missing) if s)
        if untried:
            yield (
                f"{untried} of these downloads have not been tried yet. If an address or checksum "
                f"in {', '.join(suite.settings.files)} is wrong, deme prepare says so and stops."
            )
    yield _next(suite, missing)


def _lines(items: Sequence[Item]) -> Iterator[list[str]]:
    for item in items:
        state = item.problem or ("there" if item.path.exists() else "there, in another form")
        size = None if item.source is None else item.source.download
        made = item.source is not None and item.source.make is not None
        yield [str(item.path), state, "made here" if made else _known(size), item.used_by]


def _details(item: Item) -> Iterator[str]:
    source = item.source
    if source is None:
        yield f"{item.place}: no file of the suite says where it comes from; put it at {item.path}"
        return
    yield f"{item.place}: {source.what}"
    if source.url is not None:
        yield f"  from: {source.url}"
    elif source.hub is not None:
        pinned = f"commit {source.revision}" if source.revision else "its newest commit"
        yield f"  from: {source.hub} on the Hugging Face Hub, {pinned}"
    elif source.by_hand is not None:
        yield f"  to be downloaded by you: {source.by_hand}"
        yield f"  then: {source.file_name} in <folder>, and from=<folder>"
    if source.make is None:
        yield f"  size: {_size(source)}; {_checks(source)}"
    if source.unpack:
        yield f"  then: unpacked, about {_known(source.kept)}"
    if source.convert is not None:
        words = [f"ema={str(source.convert.ema).lower()}"] if source.convert.ema is not None else []
        yield f"  then: deme convert {source.file_name} out={item.path} {' '.join(words)}".rstrip()
    if source.make == "stats":
        yield f"  made by: deme stats {shlex.join(source.overrides)} out={item.path}"
    elif source.make is not None:
        of = f" from {', '.join(source.needs)}" if source.needs else ""
        yield f"  made here: {source.make}{of}"
    if source.weights is not None:
        yield f"  its weights must be: {source.weights} (checked by its passport)"
    if source.licence is not None:
        yield f"  licence: {source.licence}"
    if source.accept is not None:
        yield f"  terms that you have to accept: {source.accept}"


def _size(source: SourceSettings) -> str:
    return f"{source.bytes:,} bytes" if source.bytes else f"about {_known(source.about_bytes)}"


def _checks(source: SourceSettings) -> str:
    """Return how a download is checked: its size or checksums."""
    if source.hub is not None:
        return "checked by the file sizes listed by the Hub"
    sums = [f"{kind} {value}" for kind in ("sha256", "md5") if (value := getattr(source, kind))]
    known = [*(["its size"] if source.bytes else []), *sums]
    return f"checked by {', '.join(known)}" if known else "not checked: no checksum is published"


def _disk(missing: Sequence[Item]) -> Iterator[str]:
    """Yield a line per disk: bytes to download, to keep, and free."""
    disks: dict[int, list[Item]] = {}
    for item in missing:
        disks.setdefault(_existing(item.path).stat().st_dev, []).append(item)
    for items in disks.values():
        sources = [item.source for item in items if item.source is not None]
        fetched = [source for source in sources if source.make is None]
        known = [source.download for source in fetched if source.download is not None]
        unknown = len(fetched) - len(known)
        kept = sum(source.kept or 0 for source in sources)
        packed = [s.download or 0 for s in fetched if s.unpack or s.convert is not None]
        most = kept + max(packed, default=0)
        place = _existing(items[0].path)
        free = shutil.disk_usage(place).free
        yield (
            f"disk of {place}: {size_text(sum(known))} to download, "
            f"{duration(sum(known) / PACE)} at {size_text(PACE)}/s"
            f"{f' and {unknown} of unknown size' if unknown else ''}; {size_text(kept)} remain, "
            f"at most {size_text(most)} while unpacking; {size_text(free)} free"
            f"{', which is too little' if free < most else ''}"
        )


def _known(num_bytes: int | None) -> str:
    return "?" if num_bytes is None else size_text(num_bytes)


def _existing(path: Path) -> Path:
    """Return the innermost folder of a path that exists."""
    return next(place for place in path.absolute().parents if place.exists())


def _next(suite: Suite, missing: Sequence[Item]) -> str:
    if not missing:
        return f"next: deme reproduce {suite.file}"
    command = suite.prepare or f"deme prepare {suite.file}"
    return (
        f"next: {command} fetch=true\n"
        f"or, where this machine has no network: {command} list=true, then from=<folder>"
    )


def script(suite: Suite, missing: Sequence[Item]) -> Iterator[str]:
    """Yield a shell script that downloads the missing files into the current folder."""
    command = suite.prepare or f"deme prepare {suite.file}"
    yield f"# The missing files of {suite.file}. Run this with sh in an empty folder, with access"
    yield "# to a network (it needs wget and hf), copy the folder to this machine, and type:"
    yield f"#   {command} from=<folder>"
    for item in missing:
        source = item.source
        if source is None or source.make is not None:
            continue
        yield f"# {source.file_name}: {_size(source)}; {item.place}; licence: {source.licence}"
        if source.accept is not None:
            yield f"#   {source.accept}"
        if source.url is not None:
            yield f"wget -c -O {shlex.quote(source.file_name)} {shlex.quote(source.url)}"
        elif source.hub is not None:
            words = ["hf", "download", source.hub]
            words += ["--revision", source.revision] if source.revision else []
            if item.path.name in source.patterns:
                words += [item.path.name, "--local-dir", "."]
            else:
                words += [w for pattern in source.patterns for w in ("--include", pattern)]
                words += ["--local-dir", item.path.name]
            yield shlex.join(words)
        else:
            yield f"#   to be downloaded by you: {source.by_hand}"
