"""Notes below a table: how its numbers are computed, counts, seeds, and the scope of intervals."""

from collections.abc import Iterator, Mapping, Sequence

from deme.report.rows import Row, is_same_metric
from deme.runs import Suite
from deme.system import JsonObject

ONE_SEED = (
    "(1 seed): the verdict is about the weights of one finetuning seed, not about the method; its "
    "interval leaves out the spread between finetuning seeds."
)
COMPUTE = (
    "Training compute: forward passes of one image per finetuning seed, a backward pass counted as "
    "two; search included, evaluation not."
)


def notes(suite: Suite, rows: Sequence[Row]) -> list[str]:
    """Return the notes below a table."""
    settings = suite.settings
    labels = {
        metric: row.numbers[metric].about
        for metric in settings.metrics
        for row in reversed(rows)  # the first row that has one counts
        if metric in row.numbers and "std" not in row.numbers[metric].about
    }
    differences = [n.difference for r in rows for n in r.numbers.values() if n.difference]
    of_one_model = any(d.of_one_model and d.verdict != "not resolved" for d in differences)
    bases = (
        f"pretraining seeds {list(settings.pretrain_seeds)}, " if settings.pretrain_seeds else ""
    )
    return [
        *(_label_note(metric, about) for metric, about in labels.items()),
        *_other_metrics(labels, rows),
        f"Finetuning seeds {list(settings.finetune_seeds)}, {bases}sampling seeds "
        f"{list(settings.sample_seeds)}; value ± standard deviation over the n combinations "
        "(the loss does not depend on the sampling seed).",
        *_interval_notes(suite, any("prompts" in about for about in labels.values())),
        *([ONE_SEED] if of_one_model else []),
        COMPUTE,
        *settings.notes,
    ]


def _other_metrics(labels: Mapping[str, JsonObject], rows: Sequence[Row]) -> Iterator[str]:
    """Yield rows whose metric has the same name but another reference or other features."""
    for metric, about in labels.items():
        for row in rows:
            other = row.numbers[metric].about if metric in row.numbers else about
            if not is_same_metric(about, other):
                note = _label_note(metric, other)
                yield f"{row.label} cannot be compared with the other rows: {note}"


def _interval_notes(suite: Suite, scores: bool) -> Iterator[str]:
    """Yield the parts of the variance of a difference, and what it does not include."""
    settings = suite.settings
    finetuning = len(settings.finetune_seeds) > 1
    pretraining = len(settings.pretrain_seeds or ()) > 1
    within = " within each base" if settings.bases else ""
    parts = [
        "plus that between finetuning seeds" if finetuning else "",
        "plus that between pretraining seeds" if pretraining else "",
        "" if finetuning or pretraining else "and leaves out that between finetuning seeds",
    ]
    yield (
        f"Differences are paired{within} (same initial noise, same held-out triples); their "
        f"variance is that of the paired bootstrap over images"
        f"{', of scores over prompts,' if scores else ''} {', '.join(filter(None, parts))}."
    )
    single = [base for base in settings.starts if len(settings.pretrain_seeds_of(base)) == 1]
    if settings.several_bases and single:
        every = len(single) == len(settings.starts)
        names = "each base" if every else ", ".join(map(settings.label_of, single))
        yield (
            f"One pretraining of {names}: differences and intervals hold for these weights and "
            "leave out the spread between pretrainings."
        )
    if pretraining and not finetuning:
        yield (
            "One finetuning seed: the variance between pretraining seeds contains that between "
            "finetuning seeds, except for effects of this seed that are equal on all bases."
        )


def _label_note(metric: str, about: JsonObject) -> str:
    images = f" images of {about['prompts']:,} prompts" if "prompts" in about else ""
    return (
        f"{metric}: {about['implementation']}, n = {about['n']:,}{images} against "
        f"{about['reference']}; {about['better']} is better."
    )
