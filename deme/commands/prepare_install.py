"""How `deme prepare` installs a file: linked or copied, unpacked, converted, or computed."""

import contextlib
import os
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from deme.commands import stage_function
from deme.commands.convert import convert_checkpoint
from deme.commands.prepare_items import Item, missing_content, place_of
from deme.runs import SourceSettings, Suite, compose_stage, suite_sources
from deme.system import WorkFailed, disk_errors, files, first_line, logger, make_parents


def install(raw: Path, item: Item, source: SourceSettings) -> None:
    """Unpack, convert, link or copy a checked file to its place. Raises WorkFailed, BadConfig."""
    if source.convert is not None:
        logger.info("converting %s", raw)
        convert_checkpoint(raw, item.path, source.convert)
    elif source.unpack:
        logger.info("unpacking %s", raw)
        files.write_folder(item.path, lambda partial: _unpack(raw, partial, source))
    else:
        install_finished(raw, item, source)


def _unpack(archive: Path, folder: Path, source: SourceSettings) -> None:
    """Unpack an archive; if it contains a single folder, the contents of that folder."""
    try:
        if zipfile.is_zipfile(archive):
            shutil.unpack_archive(archive, folder, "zip")
        else:
            shutil.unpack_archive(archive, folder, filter="data")
    except (
        shutil.ReadError, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError
    ) as error:  # fmt: skip
        raise WorkFailed(f"{archive} cannot be unpacked: {first_line(error)}") from error
    inside = list(folder.iterdir())
    if len(inside) == 1 and inside[0].is_dir():
        aside = inside[0].rename(folder / ".only")  # it may contain an entry with its own name
        for entry in list(aside.iterdir()):
            entry.rename(folder / entry.name)
        aside.rmdir()
    if lacking := missing_content(folder, source):
        raise WorkFailed(f"{archive} does not contain {lacking}: it is not the expected archive")


def install_finished(found: Path, item: Item, source: SourceSettings) -> None:
    """Link or copy a finished file or folder. Raises WorkFailed if it is incomplete."""
    logger.info("linking or copying %s", found)
    if found.is_dir():
        if lacking := missing_content(found, source):
            raise WorkFailed(f"{found} is incomplete: {lacking} is missing")

        def fill(partial: Path) -> None:
            shutil.copytree(found, partial, dirs_exist_ok=True, copy_function=files.link_or_copy)

        files.write_folder(item.path, fill)
        return
    with disk_errors(item.path):
        make_parents(item.path)
        with contextlib.suppress(OSError):
            os.link(found.resolve(), item.path)
            return
    with files.atomic(item.path) as file, open(found, "rb") as opened:
        shutil.copyfileobj(opened, file)


def make(item: Item, source: SourceSettings, suite: Suite) -> None:
    """Compute an item from existing ones. Raises the errors of the command used for it."""
    logger.info("making %s", item.path)
    if source.make == "stats":
        overrides = [*source.overrides, *suite.paths]
        stage_function("stats")(compose_stage("stats", overrides, out=str(item.path)))
    elif source.make == "safetensors":
        from deme.metrics.features import read_weights
        from deme.system import tensors

        part = suite_sources(suite)[source.needs[0]]
        tensors.save(item.path, read_weights(place_of(suite, part)))
    else:
        from torchvision.models import ResNet50_Weights

        names = ResNet50_Weights.DEFAULT.meta["categories"]
        files.write_text(item.path, "".join(f"{name}\n" for name in names))
