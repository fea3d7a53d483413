"""`deme report`: write an HTML page about a suite or a run: table, samples, curves, commands.

The page is one file that loads nothing: it opens from a disk, and can be sent or published.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic.dataclasses import dataclass

from deme.commands.arguments import output_file, split_args
from deme.runs import STRICT, Name, Suite, is_run
from deme.runs.settings.base import key
from deme.runs.settings.listing import RunsFolder
from deme.system import BadConfig, expanded, files, logger, print_result, size_text

PAGE = "report.html"  # in a run directory
MARK = 'name="generator" content="deme'


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReportOptions:
    """What `deme report` takes beside the suite or the run."""

    runs: RunsFolder = "runs"
    out: Annotated[
        Name | None, key("The file, if not next to the table or in the run.", "page.html")
    ] = None


def run(args: Sequence[str]) -> None:
    """Write the page of a suite beside its table, or that of a run into its directory.

    Raises BadConfig for a file that would be replaced and is no such page, MissingInput for neither
    a suite nor a run.
    """
    paths = [arg for arg in args if arg.startswith("paths.") and not arg.startswith("paths.runs=")]
    given = [arg.removeprefix("paths.") for arg in args if arg not in paths]
    place, options = split_args(given, ReportOptions, "suite or run", "deme report <suite>")
    write_page(place, options.out, options.runs, paths)


def write_page(
    place: str, given: str | None = None, runs: str = "runs", paths: Sequence[str] = ()
) -> Path:
    """Write the page of a suite or a run to the file that is given, or beside it; return the file.

    Raises as `run` does.
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
