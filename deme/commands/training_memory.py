"""`deme plan`: the memory that each kind of training in a suite takes.

It follows from the run's settings and the network's config alone. Computing it takes torch,
diffusers and a few seconds, so it is kept in the cache, under a hash of all that it follows from.
That of the shipped suites is part of the package (`make training-memory` computes it again).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from deme import __version__
from deme.models.layout import network_folder, read_json_object, read_placement
from deme.runs import Node, Suite, TrainSettings, build, instantiate, partial
from deme.system import (
    PACKAGE,
    BadConfig,
    DemeError,
    MissingInput,
    cache_folder,
    duration,
    files,
    first_line,
    locate,
    read_cached,
    read_json,
)

if TYPE_CHECKING:
    from torch import nn

    from deme.models.denoiser import DenoisingModel
    from deme.training.memory import TrainingMemory

SHIPPED = PACKAGE / "assets" / "training_memory.json"  # hash -> memory
NUM_TOKENS = 77  # of a text, if the model has no config of its text encoder
SCRATCH = {"unet": "UNet2DModel", "transformer": "DiTTransformer2DModel"}  # by a model's option


def memory_lines(suite: Suite) -> Iterator[str]:
    """Yield a line for each kind of training to be done: its memory, or why it is not known."""
    lines: dict[tuple[str, str | None], str] = {}
    kinds: dict[str, list[Node]] = {}
    for node in suite.nodes:
        if node.stage == "train" and node.state != "done":
            row = node.row, node.base_name  # whose runs differ in their seeds
            if row not in lines:
                lines[row] = _line(node)
            kinds.setdefault(lines[row], []).append(node)
    for line, nodes in kinds.items():
        rows = list(dict.fromkeys(node.row_and_base for node in nodes))
        more = f" and {len(rows) - 3} more" if len(rows) > 4 else ""
        yield f"training memory: {line}: {', '.join(rows[: 3 if more else 4])}{more}"


def built_lines(settings: TrainSettings, model: "DenoisingModel", device: str) -> Iterator[str]:
    """Yield what a model trained from scratch is, and the memory and time of its training."""
    import torch

    from deme.builders.figures import seconds_per_pass

    yield f"model: built for this training: {model.description}"
    network, teachers = _network(settings.model), _Teachers(None, int(settings.has_teacher))
    memory = _memory(settings, network, settings.projection.placement, teachers)
    with torch.random.fork_rng():  # a network with dropout draws random numbers
        seconds = seconds_per_pass(model.to(device))
    time = duration(settings.num_forward_passes() * seconds)
    yield (
        f"training takes about {memory} at batch {settings.batch_size}, and {time} for "
        f"{settings.num_steps:,} steps by the time of one forward pass here"
    )


def memory_of(settings: TrainSettings) -> str:
    """Return the memory of training a model folder's network; its weights are not read.

    Raises MissingInput, BadConfig, and what diffusers raises for a config of which it makes no
    network.
    """
    network = _network(settings.model)
    teachers = _Teachers(network.placement, int(settings.has_teacher))
    return str(_memory(settings, network, network.placement, teachers))


def _line(node: Node) -> str:
    """Return the text on one run, which is the same for the same kind of training."""
    settings = node.settings
    assert isinstance(settings, TrainSettings)
    before = _trainings_before(node)
    try:
        network = _network((before[-1] if before else settings).model)
        stored = (one.projection.placement for one in before)
        placement = next((each for each in stored if each), network.placement)
        parts = [
            asdict(network),
            placement,
            settings.projection.placement,
            settings.batch_size,
            settings.has_teacher,
            settings.ema is not None,
            settings.optimizer,
            {key: value for key, value in asdict(settings.compute).items() if key != "strategy"},
            settings.balancing,
            settings.ranges if settings.balancing else None,
            *([settings.ema] if settings.tracks_profiles else []),
            *([settings.adapter, _base_teaches(settings)] if settings.adapter else []),
        ]
        teachers = _teachers(node, settings, placement)
        if teachers != _Teachers(placement, int(settings.has_teacher)):  # of runs without these
            parts.append(asdict(teachers))
        key = files.sha256_text(json.dumps(parts, sort_keys=True))[:32]
        memory = read_json(SHIPPED, dict[str, str]).get(key)
        if memory is None:
            versions = (__version__, *map(version, ("torch", "diffusers")))
            file = cache_folder(settings.paths) / "memory" / f"{'-'.join([key, *versions])}.json"
            memory = (read_cached(file, dict[str, str]) or {}).get("memory")
            if memory is None:
                memory = str(_memory(settings, network, placement, teachers))
                files.write_json(file, {"memory": memory})
    except MissingInput:
        path = (before[-1] if before else settings).model.get("path")
        return f"unknown: {path} is not here"
    except (DemeError, ValueError, TypeError, RuntimeError, KeyError) as error:
        return f"unknown: {first_line(error)}"
    checkpointing = ", gradient checkpointing" if settings.compute.gradient_checkpointing else ""
    return f"{memory} at batch {settings.batch_size}, {settings.compute.precision}{checkpointing}"


def _trainings_before(node: Node) -> list[TrainSettings]:
    """Return the trainings that make the model of an untrained base, the last one first."""
    found = []
    while node.base is not None and node.waits_for_base:
        node = node.base.training
        found.append(build(TrainSettings, node.config))
    return found


@dataclass(frozen=True)
class _Network:
    """diffusers' class and its config, the stored projections, and how many tokens it sees."""

    kind: str
    config: Mapping[str, Any]
    placement: str | None = None
    num_tokens: int = NUM_TOKENS


@dataclass(frozen=True)
class _Teachers:
    """The placement of their projections, and how many are in memory besides the average."""

    placement: str | None
    count: int


def _teachers(node: Node, settings: TrainSettings, placement: str | None) -> _Teachers:
    experts = node.inputs.get("experts", [])
    if settings.teacher_is_average:
        return _Teachers(settings.projection.placement or placement, 0)
    if not experts:
        return _Teachers(placement, int(settings.has_teacher))
    one = settings.method.get("resident") == "one"
    trained = build(TrainSettings, experts[0].training.config)
    one = one or trained.adapter is not None
    return _Teachers(trained.projection.placement or placement, 1 if one else len(experts))


def _network(option: Mapping[str, object]) -> _Network:
    """Return what a `model` option says of its network. Raises MissingInput, BadConfig."""
    for part, kind in SCRATCH.items():
        if isinstance(config := option.get(part), Mapping):
            return _Network(kind, dict(config))
    path = option.get("path", option.get("parts"))
    if path is None:
        raise BadConfig(
            f"{option.get('_target_')} has neither a path nor a {' nor a '.join(SCRATCH)}"
        )
    place = locate(str(path))
    folder = network_folder(place)
    if not (folder / "config.json").is_file():
        raise MissingInput(f"{folder / 'config.json'} does not exist")
    stored = read_json_object(folder / "config.json")
    kind = str(stored.get("_class_name", SCRATCH["unet"]))
    text = place / "text_encoder" / "config.json"
    encoder = read_json_object(text)
    arguments = {name: value for name, value in stored.items() if not name.startswith("_")}
    return _Network(
        kind,
        arguments,
        read_placement(folder),
        int(str(encoder.get("max_position_embeddings", NUM_TOKENS))),
    )


def _memory(
    settings: TrainSettings, network: _Network, placement: str | None, teachers: _Teachers
) -> "TrainingMemory":
    """Return the memory; `placement` is that of the projections that the initial model has.

    Raises what diffusers raises for a config of which it makes no network.
    """
    import diffusers
    import torch

    from deme.models.adapter import add_lora_layers, matching_layers
    from deme.models.loading import adapter_targets, families_by_network, network_type
    from deme.models.projection import Projections
    from deme.training.memory import Plan, training_memory

    families = families_by_network()
    kind = network_type({**network.config, "_class_name": network.kind})
    if kind not in families:
        raise BadConfig(f"a {kind} cannot be trained here; allowed: {', '.join(families)}")

    def made(placement: str | None) -> "nn.Module":
        arguments = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in network.config.items()
        }
        one: nn.Module = getattr(diffusers, network.kind)(**arguments)
        if placement:
            one.projections = Projections(one, placement)
        return one

    def adapted() -> "nn.Module":
        one = made(student)
        if settings.adapter is not None:
            lora = instantiate(settings.adapter)
            targets = lora.targets or adapter_targets(kind)
            layers = matching_layers(one, targets, all_needed=lora.targets is not None)
            add_lora_layers(one, lora, layers)
        return one

    with torch.device("meta"):
        config = getattr(diffusers, network.kind)(**network.config).config
    tokens = network.num_tokens if kind == "UNet2DConditionModel" else None
    inputs = families[kind].network_inputs(config, tokens)
    gpu = settings.compute.accelerator == "gpu"
    # torch updates all parameters at once on a GPU, unless the optimizer is fused
    together = gpu and not settings.optimizer.get("fused")
    plan = Plan(
        settings.batch_size,
        moments=_moments(settings.optimizer),
        averages=_num_averages(settings),
        dtype=None if settings.compute.precision == "32-true" else torch.bfloat16,
        gpu=gpu,
        checkpointing=settings.compute.gradient_checkpointing,
        tasks=_num_tasks(settings),
        update_copies=int(settings.ema is not None or together),
        teachers=teachers.count,
        base_teaches=_base_teaches(settings),
    )
    loads_teacher = settings.has_teacher and not _base_teaches(settings)
    teacher = (lambda: made(teachers.placement)) if loads_teacher else None
    student = settings.projection.placement or placement
    return training_memory(adapted, teacher, inputs, plan)


def _base_teaches(settings: TrainSettings) -> bool:
    """Whether the teacher is the network without its adapter: no other model or expert is."""
    others = settings.inputs.get("teacher") or settings.inputs.get("experts")
    return settings.has_teacher and settings.adapter is not None and not others


def _num_averages(settings: TrainSettings) -> int:
    """Return how many averages of the weights are held."""
    if settings.ema is None or not settings.tracks_profiles:
        return int(settings.ema is not None)
    from deme.merging.power_profiles import TRACKED

    return len({*TRACKED, settings.ema["length"]})


def _moments(option: Mapping[str, object]) -> float:
    """Return how many numbers the optimizer keeps per parameter, from one small update."""
    import torch

    parameter = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = partial(option)([{"params": [parameter]}])
    parameter.grad = torch.ones(4, 4)
    optimizer.step()
    kept = [value for value in optimizer.state[parameter].values() if torch.is_tensor(value)]
    return sum(value.numel() for value in kept if value.dim()) / parameter.numel()


def _num_tasks(settings: TrainSettings) -> int:
    """Return the number of tasks whose gradients are held separately, 0 for none."""
    if settings.balancing is None:
        return 0
    ranges = settings.ranges
    count = ranges["num_ranges"] if "num_ranges" in ranges else len(ranges["boundaries"]) - 1
    return count if instantiate(settings.balancing, num_tasks=count).uses_gradients else 0
