"""`deme verify`: audit an evaluation, by someone else, in about a minute."""

import time
from pathlib import Path
from typing import Any

from deme import files
from deme.errors import BadConfig, MissingInput, WorkFailed
from deme.inputs import content_hash, is_run, load_yaml, read_status, weights_folder
from deme.paths import locate
from deme.runs import Run, check_numbers, is_sealed, say


def run(config: dict[str, Any]) -> Path:
    """Check the run and return its directory. Raises WorkFailed naming everything that does not hold."""
    check_numbers(config)
    audited = _finished(locate(str(config["run"])))
    audited.config["paths"] = config["paths"]

    from deme.stages.audit import audit

    began = time.monotonic()
    findings = [_sealed(audited), *_inputs(audited)]
    findings += audit(audited, config["num_images"], config["pick_seed"], config["batch_size"])
    for good, text in findings:
        say(f"  {'ok     ' if good else 'FAILED '} {text}")
    failed = [text for good, text in findings if not good]
    if failed:
        raise WorkFailed(
            f"{audited.path} does not hold: {len(failed)} of {len(findings)} checks failed, first: {failed[0]}"
        )
    say(f"verified {audited.path}: {len(findings)} checks in {time.monotonic() - began:.0f} s")
    return audited.path


def _finished(path: Path) -> Run:
    if not is_run(path) or not (path / "config.yaml").exists():
        raise BadConfig(f"{path} is no run directory\ntype: deme verify run=<directory of a deme evaluate run>")
    config = load_yaml(path / "config.yaml")
    if config["stage"] != "evaluate":
        raise BadConfig(f"{path} is a run of deme {config['stage']}; deme verify takes one of deme evaluate")
    state = read_status(path).get("state")
    if state != "done":
        raise MissingInput(f"{path} is not finished (state: {state}); run its command again first")
    if config["source"] == "real":
        raise BadConfig(f"{path} measured draws of real images: there is nothing to make again")
    recorded = files.read_json(path / "run.json")["inputs"]
    inputs = {name: [Path(place) for place in places] for name, places in recorded.items()}
    hashes = {name: list(places.values()) for name, places in recorded.items()}
    return Run(path, "", config, inputs, hashes)


def _sealed(run: Run) -> tuple[bool, str]:
    return is_sealed(run.path / "config.yaml"), "config.yaml is as it was frozen before the work"


def _inputs(run: Run) -> list[tuple[bool, str]]:
    found = []
    for name, places in run.inputs.items():
        for place, recorded in zip(places, run.hashes[name], strict=True):
            path = locate(str(place))
            now = files.sha256(weights_folder(path)) if is_run(path) else content_hash(path)
            found.append((now == recorded, f"inputs.{name}: {place} is what was evaluated"))
    return found
