"""Small finished runs without any training, and readers of what trackers write of them."""

import csv
import json
import struct
import time
from pathlib import Path

import yaml
from PIL import Image

from deme.runs import compose_stage
from deme.runs.run import HEAD
from deme.system import files

METRIC = {"value": 0.25, "n": 10, "reference": "held-out images", "implementation": "deme", "better": "lower"}  # fmt: skip
COMMIT = "0123456789abcdef"


def png(file: Path, size: int = 4) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size, size), 100).save(file)


def write_run(
    place: Path, words: list[str], inputs: dict | None = None, weights: dict | None = None, **given
) -> Path:
    """The directory <suite>/<stage>/<name> of a finished run; `weights`: content by kind."""
    suite, stage = place.parent.parent.name, place.parent.name
    config = compose_stage(stage, [*words, f"suite={suite}"])
    digests = {}
    for kind, content in (weights or {}).items():
        folder = place / "weights" / kind
        files.write_text(folder / "unet" / "diffusion_pytorch_model.safetensors", content)
        files.write_json(folder / "deme.json", {"ema": kind == "ema", **given.pop("about", {})})
        digests[kind] = files.sha256(folder)
    body = yaml.safe_dump(config, sort_keys=False)
    identity, digest = files.sha256_text(str(place.name)), files.sha256_text(body)
    files.write_text(place / "config.yaml", f"{HEAD.format(identity=identity, digest=digest)}\n{body}")  # fmt: skip
    status = {"state": "done", "pid": 1, "time": 1000.0, "seconds": 60.0, "weights": digests}
    files.write_json(place / "status.json", status)
    record = {"deme": "0", "git": {"commit": COMMIT, "dirty": False}, "directory": ".",
              "inputs": inputs or {}, "command": [stage, *words]}  # fmt: skip
    files.write_json(place / "run.json", record)
    for name, value in given.items():
        if name.endswith("lines"):
            lines = "".join(json.dumps(each) + "\n" for each in value)
            files.write_text(place / f"{name.removesuffix('_lines')}.jsonl", lines)
        else:
            files.write_json(place / f"{name}.json", value)
    return place


def write_runs(root: Path) -> dict[str, Path]:
    """A suite `s` below root/runs: an expert, a search, a merge and its evaluation."""
    suite = root / "runs" / "s"
    curve = [
        {"step": step, "loss": 1.0 / (step + 1), "loss/denoising": 0.5, "learning_rate": 1e-4,
         "gradient_norm": None if step == 1 else 2.0, "ema_decay": 0.9}
        for step in (1, 3, 5)
    ]  # fmt: skip
    speed = [{"step": step, "images_per_second": 100.0, "time": 990.0 + step} for step in (1, 3, 5)]
    found = {}
    found["expert"] = write_run(
        suite / "train" / "deme-e0-s0-aaaa", ["method=deme", "expert=0"], None,
        {"ema": "averaged", "raw": "last"}, metrics_lines=curve, speed_lines=speed,
        cost={"num_forward_passes": 12},
    )  # fmt: skip
    expert = str(found["expert"])
    digest = json.loads((found["expert"] / "status.json").read_text())["weights"]["ema"]
    evaluations = [
        {"weights": [w], "score": score, "fraction": 1.0, "images": 4, "seconds": 0.1}
        for w, score in ((0.0, 3.0), (0.5, 1.0), (1.0, None))
    ]
    found["search"] = write_run(
        suite / "search" / "searched-s0-bbbb", [f"inputs.experts=[{expert}]"],
        {"experts": {expert: digest}}, evaluations_lines=evaluations,
        best={"weights": [0.5], "score": 1.0}, cost={"num_forward_passes": 3},
        metrics={"cell": {}, "metrics": {"fd_digits": {**METRIC, "value": 1.0}}},
    )  # fmt: skip
    search = str(found["search"])
    found["merge"] = write_run(
        suite / "merge" / "merged-s0-cccc", [f"inputs.experts=[{expert}]"],
        {"experts": {expert: digest}, "search": {search: files.sha256(found["search"] / "best.json")}},
        {"merged": "sum"}, about={"merge": "weighted_sum", "weights": [0.5]},
    )  # fmt: skip
    merged = json.loads((found["merge"] / "status.json").read_text())["weights"]["merged"]
    metrics = {"fd_digits": {**METRIC, "interval": [0.2, 0.3]}, "loss": METRIC, "loss/0": METRIC}
    found["evaluation"] = write_run(
        suite / "evaluate" / "merged-s0-n1-dddd",
        [f"inputs.weights={found['merge']}", "sample_seed=1", "cell.method=merged"],
        {"weights": {str(found["merge"]): merged}}, metrics={"cell": {}, "metrics": metrics},
    )  # fmt: skip
    png(found["expert"] / "samples" / "grid.png")
    png(found["evaluation"] / "samples" / "grid.png", 8)
    png(found["search"] / "best_so_far.png")
    return found


def read_csv(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def wandb_records(file: Path):
    """The records of a file of wandb, which lie in blocks of 32 KiB, each after a checksum, a length and a kind."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record, parts = Record.FromString(parts), b""
            yield record.WhichOneof("record_type"), record


def wandb_run(home: Path, name: str = "") -> dict:
    """What the only offline run of `name` in tracking/wandb holds: about, config, rows, summary, artifacts.

    wandb's own process writes it, and on a busy machine ends after the run is finished.
    """
    (file,) = (file for file in home.glob("wandb/offline-run-*/*.wandb") if name in file.name)
    end = time.monotonic() + 60
    while time.monotonic() < end and "exit" not in {kind for kind, _ in wandb_records(file)}:
        time.sleep(0.05)
    found = {"rows": [], "summary": {}, "outputs": {}, "inputs": {}, "folder": file.parent}
    for kind, record in wandb_records(file):
        if kind == "run":
            found |= {"about": record.run, "config": _values(record.run.config.update)}
        elif kind == "history":
            found["rows"].append(_values(record.history.item))
        elif kind == "summary":
            found["summary"] |= _values(record.summary.update)
        elif kind == "artifact":
            which = "inputs" if record.artifact.use_after_commit else "outputs"
            found[which][record.artifact.name] = record.artifact
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found


def _values(items) -> dict:
    return {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in items}


def own(values: dict) -> dict:
    """Without what wandb adds to a row: when it was sent, and how long after the start."""
    return {name: value for name, value in values.items() if not name.startswith("_")}
