"""`deme table`: from the runs of a suite to its table and pictures; what is missing prints as `--` with its command."""

from deme import files
from deme.report import tables
from deme.report.rows import table_rows
from deme.runs import say
from deme.suites import Suite


def run(suite: Suite) -> int:
    """Write <results>/<suite>.{md,tex,csv}, samples.png and loss_per_range.png; return 0."""
    rows = table_rows(suite)
    tables.show(suite, rows)
    for note in tables.notes(suite, rows):
        say(f"  {note}")
    folder, name = suite.results, suite.name
    files.write_text(folder / f"{name}.md", tables.markdown(suite, rows))
    files.write_text(folder / f"{name}.tex", tables.latex(suite, rows))
    files.write_text(folder / f"{name}.csv", tables.comma_separated(rows))
    written = [f"{name}.md", f"{name}.tex", f"{name}.csv"]
    if any(row.grid for row in rows):
        from deme.report import figures

        files.write_bytes(folder / "samples.png", figures.png(figures.sample_grids(rows)))
        files.write_bytes(folder / "loss_per_range.png", figures.png(figures.loss_per_range(rows)))
        written += ["samples.png", "loss_per_range.png"]
    missing = list(dict.fromkeys(command for row in rows for command in row.missing))
    if missing:
        count = sum(len(row.missing) for row in rows)
        say(f"{count} evaluations are not measured yet; next:\n  {missing[0]}\nor all: deme reproduce {suite.file}")
    say(f"wrote {folder}/{{{','.join(written)}}}")
    return 0
