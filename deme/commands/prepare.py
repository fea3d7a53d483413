"""`deme prepare`: list the files that a table needs, and download them with fetch=true.

Nothing is downloaded unless fetch=true is typed (docs/prepare.md).
"""

from collections.abc import Sequence
from pathlib import Path

from deme.commands.prepare_items import Item, needed_items
from deme.commands.prepare_models import check_model
from deme.commands.prepare_text import report, script
from deme.commands.prepare_work import obtain
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
    """Say what is missing, or list it for another machine, or bring it.

    A file that fails does not stop the others; the first failure is raised at the end.
    """
    if options.list and (options.fetch or options.carried is not None):
        raise BadConfig("list=true only prints what to download\nleave out fetch= and from=")
    items = needed_items(suite)
    missing = [item for item in items if item.problem is not None]
    if options.list:
        print_result("\n".join(script(suite, missing)))
        return
    if not (options.fetch or options.carried is not None):
        print_result("\n".join(report(suite, items, missing)))
        return
    carried = expanded(options.carried) if options.carried is not None else None
    if carried is not None and not carried.is_dir():
        raise MissingInput(f"{carried} is not a folder\ntype: from=<folder of the downloads>")
    failed = _bring(suite, missing, carried, options.fetch)
    if failed:
        first = failed[0]
        count = f"{len(failed)} of {len(missing)} files and folders failed; the first:\n"
        raise type(first)(f"{count if len(failed) > 1 else ''}{first}")
    print_result(f"all {len(items)} files and folders are there\nnext: deme reproduce {suite.file}")


def _bring(
    suite: Suite, missing: Sequence[Item], carried: Path | None, fetch: bool
) -> list[DemeError]:
    """Obtain what is missing, then ask models for their passports; return all failures."""
    failed: dict[Item, DemeError] = {}
    for item in missing:
        lost = [part.place for part in failed if item.place in part.parts_of]
        try:
            if lost:
                raise MissingInput(f"{item.place} is made of {', '.join(lost)}, which is missing")
            obtain(item, suite, carried, fetch)
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
