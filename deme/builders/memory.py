"""`deme plan`: the memory that each kind of training in a suite takes, from its config and the UNet's config alone.

Working it out takes torch, diffusers and a few seconds; so it is kept by what it follows from, and a plan typed again has it at once.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from deme import __version__
from deme.models.layout import read_placement, unet_folder
from deme.runs.config import instantiate, partial
from deme.runs.settings.base import build
from deme.runs.settings.groups import PathsSettings
from deme.runs.suite import Node, Suite
from deme.system import files
from deme.system.errors import BadConfig, DemeError, MissingInput
from deme.system.paths import cache_folder, locate

TOKENS = 77  # of a text, where no text encoder's config is there to say it
KINDS = ("UNet2DModel", "UNet2DConditionModel")


def told(suite: Suite) -> Iterator[str]:
    """Yield a line for each kind of training that is still to be done: what it takes, or why that is not known."""
    kinds: dict[str, list[Node]] = {}
    for node in suite.nodes:
        if node.stage == "train" and node.state != "done":
            kinds.setdefault(_line(node), []).append(node)
    for line, nodes in kinds.items():
        rows = list(dict.fromkeys(node.row for node in nodes))
        more = f" and {len(rows) - 3} more" if len(rows) > 4 else ""
        yield f"training memory: {line}: {', '.join(rows[: 3 if more else 4])}{more}"


def _line(node: Node) -> str:
    """What is known of one run; of the same kind of training it is the same text."""
    config = node.config
    try:
        settings = _settings(node)
        key = files.sha256_text(
            json.dumps(
                [settings, __version__, *map(version, ("torch", "diffusers"))], sort_keys=True
            )
        )
        kept = cache_folder(build(PathsSettings, config["paths"])) / "memory" / f"{key[:32]}.json"
        if not kept.is_file():
            files.write_json(kept, {"memory": str(_memory(settings))})
        memory = files.read_json(kept)["memory"]
    except MissingInput:
        path = (node.base or node).config["model"].get("path", config["model"].get("path"))
        return f"unknown: {path} is not here"
    except (DemeError, ValueError, TypeError, RuntimeError, KeyError) as error:
        return f"unknown: {(str(error).splitlines() or [type(error).__name__])[0]}"
    checkpointing = (
        ", gradient checkpointing" if config["compute"]["gradient_checkpointing"] else ""
    )
    return (
        f"{memory} at batch {config['batch_size']}, {config['compute']['precision']}{checkpointing}"
    )


def _settings(node: Node) -> dict[str, Any]:
    """Everything that the memory of a run follows from, as JSON; of a base that is not trained yet its config. Raises as `_unet`."""
    config, compute = node.config, node.config["compute"]
    before = node.base.config if node.base is not None and node.base.state != "done" else None
    unet = _unet((before or config)["model"])
    return {
        "unet": unet.__dict__,
        "before": before["projection"]["placement"] if before is not None else unet.placement,
        "placement": config["projection"]["placement"],
        "batch_size": config["batch_size"],
        "teacher": config["method"].get("consistency_weight", 0) > 0,
        "average": bool(config["ema"]),
        "optimizer": config["optimizer"],
        "compute": {
            name: compute[name] for name in ("accelerator", "precision", "gradient_checkpointing")
        },
        "balancing": config["balancing"],
        "ranges": config["ranges"] if config["balancing"] else None,
    }


@dataclass(frozen=True)
class _UNet:
    """diffusers' class and its config, the projections that are stored with it, and how many tokens of a text it sees."""

    kind: str
    config: dict[str, Any]
    placement: str | None = None
    tokens: int = TOKENS


def _unet(spec: dict[str, Any]) -> _UNet:
    """Return what a `model` option says of its UNet. Raises MissingInput, BadConfig."""
    if "unet" in spec:
        return _UNet(KINDS[0], spec["unet"])
    path = spec.get("path", spec.get("parts"))
    if path is None:
        raise BadConfig(f"{spec.get('_target_')} has neither a path nor a unet")
    place = locate(path)
    folder = unet_folder(place)
    if not (folder / "config.json").is_file():
        raise MissingInput(f"{folder / 'config.json'} does not exist")
    config = files.read_json(folder / "config.json")
    if (kind := config.get("_class_name", KINDS[0])) not in KINDS:
        raise BadConfig(f"{path} holds a {kind}")
    text = place / "text_encoder" / "config.json"
    tokens = (
        files.read_json(text).get("max_position_embeddings", TOKENS) if text.is_file() else TOKENS
    )
    words = {name: value for name, value in config.items() if not name.startswith("_")}
    return _UNet(kind, words, read_placement(folder), tokens)


def _memory(settings: dict[str, Any]) -> Any:
    """Return the TrainingMemory. Raises what diffusers raises for a config that it makes no UNet of."""
    import diffusers
    import torch

    from deme.models.projection import Projections
    from deme.training.memory import Plan, training_memory

    unet, before, compute = _UNet(**settings["unet"]), settings["before"], settings["compute"]

    def network(placement: str | None) -> Any:
        words = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in unet.config.items()
        }
        made = getattr(diffusers, unet.kind)(**words)
        if placement:
            made.projections = Projections(made, placement)
        return made

    size = unet.config["sample_size"]
    sides = [size, size] if isinstance(size, int) else size
    inputs: dict[str, tuple[int, ...]] = {
        "sample": (unet.config["in_channels"], *sides),
        "timestep": (),
    }
    if unet.kind == "UNet2DConditionModel":
        inputs["encoder_hidden_states"] = (unet.tokens, unet.config["cross_attention_dim"])
    gpu = compute["accelerator"] == "gpu"
    together = gpu and not settings["optimizer"].get(
        "fused"
    )  # torch updates all parameters at once there
    plan = Plan(
        settings["batch_size"],
        moments=_moments(settings["optimizer"]),
        average=settings["average"],
        dtype=None if compute["precision"] == "32-true" else torch.bfloat16,
        gpu=gpu,
        checkpointing=bool(compute["gradient_checkpointing"]),
        tasks=_tasks(settings),
        update_copies=int(settings["average"] or together),
    )
    teacher = (lambda: network(before)) if settings["teacher"] else None
    return training_memory(lambda: network(settings["placement"] or before), teacher, inputs, plan)


def _moments(spec: dict[str, Any]) -> float:
    """Return how many numbers the optimizer keeps of a parameter: it is given a small one to update."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = partial(spec)([{"params": [parameter]}])
    parameter.grad = torch.ones(4, 4)
    optimizer.step()
    kept = [
        value for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor)
    ]
    return sum(value.numel() for value in kept if value.dim()) / parameter.numel()


def _tasks(settings: dict[str, Any]) -> int:
    """Return how many tasks' gradients are held apart: 0 where losses are balanced, or nothing is."""
    from deme.methods.balancing import Balancing

    if not settings["balancing"]:
        return 0
    ranges = settings["ranges"]
    count = ranges["num_ranges"] if "num_ranges" in ranges else len(ranges["boundaries"]) - 1
    balancing = instantiate(settings["balancing"], num_tasks=count)
    return count if type(balancing).wants_gradients is not Balancing.wants_gradients else 0
