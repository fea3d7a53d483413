"""`deme prepare`: list the files that a table needs, and download them with fetch=true.

Nothing is downloaded unless fetch=true is typed (docs/prepare.md).
"""

from collections.abc import Sequence
from pathlib import Path

from deme.commands.prepare_items import Item, needed_items
from deme.commands.prepare_models import check_model
from deme.commands.prepare_obtain import obtain
from deme.commands.prepare_text import report, script
from deme.runs import PrepareOptions, Suite
from deme.system import (
    BadConfig,
    DemeError,
    MissingInput,
    as_deme_error,
    expanded,
    logger,
    print_result,
)


def run(suite: Suite, options: PrepareOptions) -> None:
    """Print what is missing, print a download script, or obtain the files.

    A file that fails does not stop the others; the first failure is raised at the end.
    """
    if options.list and (options.fetch or options.from_folder is not None):
        raise BadConfig("list=true only prints what to download\nleave out fetch= and from=")
    items = needed_items(suite)
    missing = [item for item in items if item.problem is not None]
    if options.list:
        print_result("\n".join(script(suite, missing)))
        return
    if not (options.fetch or options.from_folder is not None):
        print_result("\n".join(report(suite, items, missing)))
        return
    from_folder = expanded(options.from_folder) if options.from_folder is not None else None
    if from_folder is not None and not from_folder.is_dir():
        raise MissingInput(f"{from_folder} is not a folder\ntype: from=<folder of the downloads>")
    failed = _obtain_all(suite, missing, from_folder, options.fetch)
    if failed:
        first = failed[0]
        count = f"{len(failed)} of {len(missing)} files and folders failed; the first:\n"
        raise type(first)(f"{count if len(failed) > 1 else ''}{first}")
    print_result(f"all {len(items)} files and folders are there\nnext: deme reproduce {suite.file}")


def _obtain_all(
    suite: Suite, missing: Sequence[Item], from_folder: Path | None, fetch: bool
) -> list[DemeError]:
    """Obtain the missing files, then measure the passports of models; return all failures."""
    failed: dict[Item, DemeError] = {}
    for item in missing:
        lost = [part.place for part in failed if item.place in part.parts_of]
        try:
            if lost:
                raise MissingInput(f"{item.place} is made of {', '.join(lost)}, which is missing")
            obtain(item, suite, from_folder, fetch)
            print_result(f"{item.place} is there")
        except (DemeError, OSError) as error:
            failed[item] = as_deme_error(error)
            logger.error("%s: %s", item.place, failed[item])
    for item in missing:
        if item not in failed and item.source is not None and item.source.weights is not None:
            try:
                check_model(suite, item)
            except (DemeError, OSError) as error:
                failed[item] = as_deme_error(error)
                logger.error("%s: %s", item.place, failed[item])
    return list(failed.values())
