"""`deme report`: write an HTML page about a suite or a run: table, samples, curves, commands.

The page is one file that loads nothing else, so it can be opened from disk, sent or published.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic.dataclasses import dataclass

from deme.commands.arguments import output_file, split_args, without_paths
from deme.runs import STRICT, Name, Suite, is_run
from deme.runs.settings.base import key
from deme.runs.settings.listing import RunsFolder
from deme.system import BadConfig, expanded, files, logger, print_result, size_text

PAGE = "report.html"  # in a run directory
MARK = 'name="generator" content="deme'


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReportOptions:
    """The options of `deme report`."""

    runs: RunsFolder = "runs"
    out: Annotated[
        Name | None, key("The file, if not next to the table or in the run.", "page.html")
    ] = None


def run(args: Sequence[str]) -> None:
    """Write the page of a suite next to its table, or that of a run into its directory.

    Raises BadConfig for an existing file that is not such a page, MissingInput for a place that is
    neither a suite nor a run.
    """
    given, paths = without_paths(args)
    place, options = split_args(given, ReportOptions, "suite or run", "deme report <suite>")
    write_page(place, options.out, options.runs, paths)


def write_page(
    place: str, given: str | None = None, runs: str = "runs", paths: Sequence[str] = ()
) -> Path:
    """Write the page of a suite or a run to the file `given`, or to its default place; return it.

    Raises the same errors as `run`.
    """
    folder = expanded(place)
    if is_run(folder):
        out = _checked(given, folder / PAGE)
        logger.info("writing the page of %s", folder.name)
        from deme.report.page.run_page import run_page

        page = run_page(folder)
    else:
        suite = Suite.read(Path(place), Path(runs), paths)
        out = _checked(given, suite.results / f"{suite.name}.html")
        logger.info("writing the page of %s from the runs that are done", suite.name)
        from deme.report.page.suite_page import suite_page

        page = suite_page(suite)
    files.write_text(out, page)
    print_result(f"wrote {out} ({size_text(len(page.encode()))})")
    return out


def _checked(given: str | None, default: Path) -> Path:
    out = default if given is None else output_file(str(expanded(given)), ".html")
    if out.exists() and MARK not in out.read_text(errors="replace")[:2000]:
        raise BadConfig(
            f"{out} is not a page of deme, and the page would replace it\ntype: out=<another file>"
        )
    return out
