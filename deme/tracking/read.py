"""Read the record of a run directory. Classes that it names are not imported."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deme.runs import (
    Config,
    Outcome,
    RunSettings,
    cost_of,
    flat,
    frozen_config,
    frozen_identity,
    frozen_settings,
    metrics_of,
    outcome_of,
    read_best,
    read_provenance,
    read_status,
    sample_grid,
)
from deme.runs.formats import Status
from deme.system import exists, model_folders, read_about, single_line
from deme.tracking.curves import search_curve, training_curve
from deme.tracking.lineage import inputs_of, outputs_of, run_id
from deme.tracking.record import Record, is_picture

FOLDER = "tracking"  # in the folder of a suite's runs
MAX_TAG = 64  # characters


def read_record(run: Path) -> Record:
    """Return what is sent of a run directory. Raises WorkFailed for a damaged one."""
    config, settings, status = frozen_config(run), frozen_settings(run), read_status(run)
    made: Mapping[str, Any] = {}
    if (run / "run.json").is_file():
        made = read_provenance(run)
    ended = status.get("time", 0.0)
    stage, suite = settings.stage, settings.suite
    placed = Path(suite, stage, run.name)  # wherever its directory was moved
    return Record(
        id=run_id(placed),
        name=run.name,
        suite=suite,
        stage=stage,
        state=status.get("state", "running"),
        home=_home(run, settings) / FOLDER,
        began=ended - status.get("seconds", 0.0),
        ended=ended,
        tags=_tags(settings),
        notes=_notes(made),
        commit=(made.get("git") or {}).get("commit"),
        config=_config(config, settings, made, run),
        curve=search_curve(run) if stage == "search" else training_curve(run),
        summary=_summary(run, stage, status),
        images=_images(run),
        inputs=tuple(inputs_of(settings, made, run)),
        outputs=tuple(outputs_of(run, placed, stage)),
    )


def _home(run: Path, settings: RunSettings) -> Path:
    """Return the folder of a run's suite, or a folder next to a run that was moved."""
    run = run.absolute()
    in_suite = run.parent.name == settings.stage and run.parent.parent.name == settings.suite
    return run.parent.parent if in_suite else run.parent


def _tags(settings: RunSettings) -> tuple[str, ...]:
    """Return suite, stage, method and base."""
    cell = settings.cell
    found = (settings.suite, settings.stage, cell.get("method"), cell.get("base"))
    return tuple(dict.fromkeys(str(tag)[:MAX_TAG] for tag in found if tag))


def _notes(made: Mapping[str, Any]) -> str:
    """Return the command that made the run."""
    command = made.get("command")
    return single_line(shlex.join(["deme", *command]), 2000) if command else ""


def _config(
    config: Config, settings: RunSettings, made: Mapping[str, Any], run: Path
) -> dict[str, object]:
    """Return the resolved configuration by dotted keys, then the labels by their own names."""
    identity, _ = frozen_identity(run / "config.yaml")
    git = made.get("git") or {}
    about = {
        "run.identity": identity,
        "run.deme": made.get("deme"),
        "run.commit": git.get("commit"),
        "run.uncommitted_changes": git.get("dirty"),
        **{f"run.versions.{name}": text for name, text in made.get("versions", {}).items()},
    }
    return {**settings_of(config), **settings.cell, **about}


def settings_of(config: Config) -> dict[str, object]:
    """Return the settings of a config that trackers get: by dotted keys, without empty groups."""
    return {name: value for name, value in flat(config).items() if value != {}}


def _summary(run: Path, stage: str, status: Status) -> dict[str, float | str]:
    """Return the results: metrics with n and interval, merge weights, cost and time."""
    found: dict[str, float | str] = {"state": status.get("state", "running")}
    if "seconds" in status:
        found["seconds"] = status["seconds"]
    if (cost := cost_of(run)) is not None:
        found["num_forward_passes"] = cost
    for name, metric in metrics_of(run).items():
        found |= _metric(name, metric)
    if stage == "search" and exists(run / "best.json"):
        found |= _weights("search/best_weight", read_best(run)["weights"])
    for folder in model_folders(run):
        about = read_about(folder)
        found |= _weights("merge/weight", about.get("weights") or [])
        for name in ("merge", "average"):
            if text := about.get(name):
                found[name] = str(text)
    if (outcome := outcome_of(run)) is not None:
        found |= _outcome(outcome)
    return found


def _metric(name: str, metric: Mapping[str, Any]) -> dict[str, float | str]:
    """Return value, n, standard deviation and interval of a metric."""
    found: dict[str, float | str] = {f"metric/{name}": metric["value"]}
    found |= {f"metric/{name}/{key}": metric[key] for key in ("n", "std") if key in metric}
    if (ends := metric.get("interval")) is not None:
        found |= {f"metric/{name}/low": ends[0], f"metric/{name}/high": ends[1]}
    return found


def _weights(name: str, weights: list[float]) -> dict[str, float]:
    return {f"{name}/{i}": weight for i, weight in enumerate(weights)}


def _outcome(outcome: Outcome) -> dict[str, float | str]:
    """Return the result of `deme improve`."""
    found: dict[str, float | str] = {
        "improve/idea": outcome["idea"],
        "improve/better": int(outcome["better"]),
    }
    for name, row in outcome["metrics"].items():
        found |= {f"improve/{name}/{when}": row[when] for when in ("before", "after")}
        found[f"improve/{name}/verdict"] = row["verdict"]
    return found


def _images(run: Path) -> dict[str, Path]:
    """Return the pictures of a run by name, `samples` first; links are not followed."""
    places = {"samples": sample_grid(run)}
    places |= {file.stem: file for file in sorted(run.glob("*.png"))}
    return {name: file for name, file in places.items() if is_picture(file)}
