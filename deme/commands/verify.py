"""`deme verify`: audit an evaluation, by someone else, in about a minute."""

import contextlib
import time
from pathlib import Path
from typing import Any

from deme.runs.checks import check_values
from deme.runs.identity import identity_hash
from deme.runs.inputs import input_hash, is_run, load_yaml, read_status, weights_folder
from deme.runs.run import Run, config_unmodified, recorded_identity, say
from deme.runs.settings.base import build
from deme.runs.settings.groups import PathsSettings
from deme.system import files
from deme.system.errors import BadConfig, MissingInput, WorkFailed
from deme.system.paths import ASSET, HUB, locate


def run(config: dict[str, Any]) -> Path:
    """Check the run and return its directory. Raises WorkFailed naming everything that does not hold."""
    check_values(config)
    place = locate(str(config["run"]))
    audited = _finished(place.absolute())
    if config.get("compute"):
        audited.config["compute"] = config["compute"]

    from deme.evaluation.audit import audit
    from deme.system.paths import cache_folder

    cache = cache_folder(build(PathsSettings, config["paths"]))
    audited.config["paths"] = {**config["paths"], "cache": str(cache.absolute())}
    began = time.monotonic()
    with contextlib.chdir(_directory(audited)):
        findings = [*_sealed(audited)]
        findings += audit(audited, config["num_images"], config["pick_seed"], config["batch_size"])
    for good, text in findings:
        say(f"  {'note   ' if good is None else 'ok     ' if good else 'FAILED '} {text}")
    failed = [text for good, text in findings if good is False]
    if failed:
        raise WorkFailed(
            f"{place} does not hold: {len(failed)} of {len(findings)} checks failed, first: {failed[0]}"
        )
    checks = sum(good is not None for good, _ in findings)
    say(f"verified {place}: {checks} checks in {time.monotonic() - began:.0f} s")
    return place


def _directory(run: Run) -> Path:
    """Relative paths of a run are looked for here, or where it was made, if they are not all here."""
    named = [str(place) for places in run.inputs.values() for place in places] + _paths(run.config)
    here = all(name.startswith((ASSET, HUB)) or Path(name).expanduser().exists() for name in named)
    made = Path(files.read_json(run.path / "run.json").get("directory", "."))
    return made if made.is_dir() and not here else Path()


def _paths(node: Any) -> list[str]:
    if not isinstance(node, dict):
        return []
    own = [node["path"]] if isinstance(node.get("path"), str) else []
    return own + [path for value in node.values() for path in _paths(value)]


def _finished(path: Path) -> Run:
    if not is_run(path) or not (path / "config.yaml").exists():
        raise BadConfig(
            f"{path} is no run directory\ntype: deme verify run=<directory of a deme evaluate run>"
        )
    config = load_yaml(path / "config.yaml")
    if config["stage"] != "evaluate":
        raise BadConfig(
            f"{path} is a run of deme {config['stage']}; deme verify takes one of deme evaluate"
        )
    state = read_status(path).get("state")
    if state != "done":
        raise MissingInput(f"{path} is not finished (state: {state}); run its command again first")
    if config["source"] == "real":
        raise BadConfig(f"{path} measured draws of real images: there is nothing to make again")
    recorded = files.read_json(path / "run.json")["inputs"]
    inputs = {name: [Path(place) for place in places] for name, places in recorded.items()}
    hashes = {name: list(places.values()) for name, places in recorded.items()}
    return Run(path, "", config, inputs, hashes)


def _sealed(run: Run) -> list[tuple[bool | None, str]]:
    file = run.path / "config.yaml"
    found: list[tuple[bool | None, str]] = [
        (config_unmodified(file), "config.yaml is as it was frozen before the work")
    ]
    now = {
        name: [_now(name, place) for place in places]
        for name, places in run.inputs.items()
        if places
    }
    for name, places in run.inputs.items():
        for place, recorded, found_now in zip(
            places, run.hashes[name], now.get(name, []), strict=True
        ):
            found.append((found_now == recorded, f"inputs.{name}: {place} is what was evaluated"))
    config = load_yaml(file)
    same = recorded_identity(file) == identity_hash(
        config, {name: hashes for name, hashes in now.items() if hashes}
    )
    return [
        *found,
        (
            same,
            "model, data, weights of the metrics and all settings are those that the run is named after",
        ),
    ]


def _now(name: str, place: Path) -> str:
    path = locate(str(place))
    return files.sha256(weights_folder(path)) if is_run(path) else input_hash(name, path)
