"""`deme verify`: check a finished evaluation by repeating a part of it, in about a minute."""

import contextlib
import os
import time
from dataclasses import asdict
from pathlib import Path

from deme.commands.arguments import evaluation_config
from deme.runs import (
    EvaluateSettings,
    Run,
    VerifySettings,
    build,
    flat,
    frozen_config,
    frozen_identity,
    identity_hash,
    input_hash,
    is_run,
    read_provenance,
    run_settings,
    stored_hash,
)
from deme.system import (
    ASSET,
    HUB,
    BadConfig,
    WorkFailed,
    cache_folder,
    duration,
    exists,
    locate,
    print_result,
)

MARKS = {True: "ok     ", False: "FAILED ", None: "note   "}


def run(config: dict[str, object]) -> Path:
    """Check a run and return its directory. Raises WorkFailed naming the first failed check."""
    settings = build(VerifySettings, config)
    place = locate(settings.run)
    audited = _finished(place.absolute())
    cache = str(cache_folder(settings.paths).absolute())
    now = {"paths": {**asdict(settings.paths), "cache": cache}}
    if settings.compute is not None:
        now["compute"] = asdict(settings.compute)
    if "download" in (data := audited.config["data"]):  # what is looked at brings nothing along
        now["data"] = {**data, "download": False}
    evaluation = build(EvaluateSettings, {**audited.config, **now})

    from deme.evaluation.audit import audit

    began = time.monotonic()
    with contextlib.chdir(_directory(audited)):
        findings = _unmodified(audited)
        findings += audit(
            audited, evaluation, settings.num_images, settings.pick_seed, settings.batch_size
        )
    for holds, text in findings:
        print_result(f"  {MARKS[holds]} {text}")
    if failed := [text for holds, text in findings if holds is False]:
        raise WorkFailed(
            f"{place} does not hold: {len(failed)} of {len(findings)} checks failed, "
            f"first: {failed[0]}"
        )
    checks = sum(holds is not None for holds, _ in findings)
    print_result(f"verified {place}: {checks} checks in {duration(time.monotonic() - began)}")
    return place


def _directory(run: Run) -> Path:
    """Return where relative paths of a run are found: here, or in the directory it was made in."""
    named = [str(place) for places in run.inputs.values() for place in places]
    named += [
        str(value)
        for key, value in flat(run.config).items()
        if key.endswith(".path") and isinstance(value, str)
    ]
    here = all(
        name.startswith((ASSET, HUB)) or exists(os.path.expanduser(name))  # noqa: PTH111
        for name in named
    )
    made = Path(read_provenance(run.path).get("directory", "."))
    return made if exists(made) and made.is_dir() and not here else Path()


def _finished(path: Path) -> Run:
    """Return the evaluation in a directory, with the inputs that were recorded."""
    config = evaluation_config(path)
    settings = run_settings(config)
    assert isinstance(settings, EvaluateSettings)  # evaluation_config has refused others
    if settings.source == "real":
        raise BadConfig(f"{path} measured real images, which cannot be regenerated")
    recorded = read_provenance(path)["inputs"]
    inputs = {name: [Path(place) for place in places] for name, places in recorded.items()}
    hashes = {name: list(places.values()) for name, places in recorded.items()}
    return Run(path, "", config, inputs, hashes, settings)


def _unmodified(run: Run) -> list[tuple[bool | None, str]]:
    """Check that config and inputs are those that the run was made and named with."""
    file = run.path / "config.yaml"
    identity, unmodified = frozen_identity(file)
    now = {
        name: [_hash_now(run, name, place) for place in places]
        for name, places in run.inputs.items()
        if places
    }
    found: list[tuple[bool | None, str]] = [
        (unmodified, "config.yaml is as it was written before the work"),
        *(
            (current == recorded, f"inputs.{name}: {place} is what was evaluated")
            for name, hashes in now.items()
            for place, recorded, current in zip(
                run.inputs[name], run.hashes[name], hashes, strict=True
            )
        ),
    ]
    same = identity == identity_hash(frozen_config(run.path), run.settings.stage, now)
    text = "model, data, weights of the metrics and all settings are those of the run's identity"
    return [*found, (same, text)]


def _hash_now(run: Run, name: str, place: Path) -> str:
    path, weights = locate(str(place)), run.settings.weights_meant(name, len(run.inputs[name]))
    return stored_hash(path, weights) if is_run(path) else input_hash(name, path)
