"""The format of a suite file: which keys it has, and what they must hold."""

from pathlib import Path
from typing import Any

import yaml

from deme.system.errors import BadConfig, MissingInput, did_you_mean
from deme.system.files import read_json

CHAIN = ("train", "search", "merge", "evaluate")
SUITE_KEYS = {
    "suite",
    "title",
    "rows",
    "results",
    "finetune_seeds",
    "sample_seeds",
    "common",
    "base",
    "baseline",
    "expected",
    "comparisons",
    "metrics",
    "notes",
    "plan",
    "show_parts",
    "runs_shared_with",
}
ROW_KEYS = {
    "name",
    "label",
    "train",
    "experts",
    "experts_of",
    "search_of",
    "search",
    "merge",
    "evaluate",
    "sample_seeds",
}


def read_spec(place: Path) -> tuple[Path, dict[str, Any]]:
    """Read experiments/<table> (its suite.yaml) or a suite file, and check it. Raises MissingInput, BadConfig."""
    file = place / "suite.yaml" if place.is_dir() else place
    if not file.is_file():
        raise MissingInput(
            f"{file} does not exist\na suite is a folder with a suite.yaml, such as experiments/digits, or such a file"
        )
    try:
        spec = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise BadConfig(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(spec, dict):
        raise BadConfig(f"{file} must hold a mapping with the keys {', '.join(sorted(SUITE_KEYS))}")
    _check_keys(spec, SUITE_KEYS, {"suite", "rows", "sample_seeds", "finetune_seeds", "baseline", "metrics"}, str(file))
    if not isinstance(spec["rows"], list) or not spec["rows"]:
        raise BadConfig(f"{file} has no rows")
    for row in spec["rows"]:
        _check_keys(row, ROW_KEYS, {"name", "label"}, f"a row of {file}")
    seeds = [(key, spec[key]) for key in ("finetune_seeds", "sample_seeds")]
    seeds += [
        (f"sample_seeds of row {row['name']}", row["sample_seeds"]) for row in spec["rows"] if "sample_seeds" in row
    ]
    for key, given in seeds:
        if not isinstance(given, list) or not all(type(seed) is int for seed in given):
            raise BadConfig(f"{file}: {key} must be a list of whole numbers, got {given!r}")
    shared = spec.get("runs_shared_with", [])
    if not isinstance(shared, list) or not all(isinstance(place, str) for place in shared):
        raise BadConfig(f"{file}: runs_shared_with must be a list of suites, such as [../coco], got {shared!r}")
    _check_expected(spec, file)
    _check_rows(spec, file)
    _check_base(spec, file)
    _check_references(spec, file)
    _check_comparisons(spec, file)
    in_order(spec["rows"])
    return file, spec


def _check_rows(spec: dict[str, Any], file: Path) -> None:
    rows = {row["name"]: row for row in spec["rows"]}
    if len(rows) < len(spec["rows"]):
        raise BadConfig(f"two rows of {file} have the same name")
    stages = [(f"common.{stage}", spec.get("common", {}).get(stage, [])) for stage in CHAIN]
    stages += [(f"row {name}: {stage}", row.get(stage, [])) for name, row in rows.items() for stage in CHAIN]
    for where, words in stages:
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise BadConfig(
                f"{file}, {where} must be a list of overrides, such as [num_steps=100] or [], got {words!r}"
            )
    if "evaluate" not in rows.get(spec["baseline"], {"evaluate": []}):
        raise BadConfig(f"{file}: the baseline {spec['baseline']} needs an evaluate stage")


def _check_expected(spec: dict[str, Any], file: Path) -> None:
    """Published numbers are looked at before any work, not when the table is written."""
    if "expected" not in spec:
        return
    place = file.parent / str(spec["expected"])
    if not place.is_file():
        raise MissingInput(f"{place} does not exist, which {file} expects published numbers in")
    found = read_json(place)
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, dict) or not all(
        isinstance(values, dict) and all(type(value) in (int, float) for value in values.values())
        for values in rows.values()
    ):
        raise BadConfig(f'{place} must hold {{"rows": {{<row>: {{<metric>: <number>}}}}}}')
    for what, given, known in (
        ("rows", rows, {row["name"] for row in spec["rows"]}),
        ("metrics", {metric for values in rows.values() for metric in values}, set(spec["metrics"])),
    ):
        if unknown := set(given) - known:
            raise BadConfig(f"{place} has {what} that {file} has not: {', '.join(sorted(unknown))}")


def _check_base(spec: dict[str, Any], file: Path) -> None:
    rows = {row["name"]: row for row in spec["rows"]}
    if "base" not in spec:
        return
    base = rows.get(spec["base"]) if isinstance(spec["base"], str) else None
    if any(spec["base"] in (row.get("experts_of"), row.get("search_of")) for row in rows.values()):
        raise BadConfig(f"{file}: experts_of and search_of cannot name the base {spec['base']}, which trains one model")
    if base is None or set(base) - {"name", "label", "train"} or "train" not in base:
        raise BadConfig(
            f"{file}: base: {spec['base']} must name a row with a train stage and no other, whose model all others start from"
        )


def _check_references(spec: dict[str, Any], file: Path) -> None:
    rows = {row["name"]: row for row in spec["rows"]}
    if spec["baseline"] not in rows:
        raise BadConfig(f"baseline: {spec['baseline']} of {file} is no row; rows: {', '.join(rows)}")
    for name, row in rows.items():
        for key, stage, does in (("experts_of", "train", "trains"), ("search_of", "search", "searches")):
            if key not in row:
                continue
            if not isinstance(row[key], str) or row[key] not in rows:
                raise BadConfig(f"row {name} of {file}: {key}: {row[key]} is no row; rows: {', '.join(rows)}")
            if stage not in rows[row[key]]:
                raise BadConfig(f"{file}, row {name}: {key} must name a row that {does}; {row[key]} does not")
        if "search" in row and "train" not in row and "experts_of" not in row:
            raise BadConfig(f"{file}, row {name}: search needs experts: a train stage, or experts_of")
        if "search_of" in row and "train" not in row:
            raise BadConfig(f"{file}, row {name}: search_of needs a train stage, which takes the weights found")


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with those first that others take experts or merge weights from. Raises BadConfig for a circle."""
    done: list[dict[str, Any]] = []
    while len(done) < len(rows):
        names = {row["name"] for row in done}
        ready = [r for r in rows if r not in done and {r[k] for k in ("experts_of", "search_of") if k in r} <= names]
        if not ready:
            circle = ", ".join(row["name"] for row in rows if row not in done)
            raise BadConfig(f"rows {circle} wait for each other: look at their experts_of and search_of")
        done += ready
    return done


def _check_comparisons(spec: dict[str, Any], file: Path) -> None:
    measured = [row["name"] for row in spec["rows"] if "evaluate" in row]
    pairs = spec.get("comparisons", [])
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise BadConfig(f"{file}: comparisons must be a list of pairs of rows, such as [[deme_uniform, finetune]]")
    for name in (name for pair in pairs for name in pair):
        if name not in measured:
            raise BadConfig(f"{file}: comparisons: {name!r} is no row that is evaluated; rows: {', '.join(measured)}")


def _check_keys(given: Any, allowed: set[str], needed: set[str], where: str) -> None:
    if not isinstance(given, dict):
        raise BadConfig(f"{where} must be a mapping, got {given!r}")
    for key in given:
        if key not in allowed:
            raise BadConfig(
                f"unknown key {key!r} in {where}; {did_you_mean(key, allowed)}allowed: {', '.join(sorted(allowed))}"
            )
    if needed - given.keys():
        raise BadConfig(f"{where} lacks {', '.join(sorted(needed - given.keys()))}")
