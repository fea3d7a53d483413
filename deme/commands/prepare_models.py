"""How `deme prepare` checks a model that it obtained: whether it is the intended one."""

from deme.commands.prepare_items import Item, without_files
from deme.runs import Node, Suite, instantiate
from deme.system import BadConfig, WorkFailed, print_result

NUM_IMAGES = 256  # for a passport, where no training of the suite says how many


def check_model(suite: Suite, item: Item) -> None:
    """Print a model's passport, measured on the images of the suite if they exist.

    Raises WorkFailed for raw weights where averaged ones are expected, or the reverse, and
    BadConfig for a model whose config contradicts its weights.
    """
    from deme.evaluation.passport import weights_kind

    assert item.source is not None
    wanted = item.source.weights
    kind, because = weights_kind(str(item.path))
    if kind not in (wanted, "unknown"):
        raise WorkFailed(
            f"{item.path} has {kind} weights ({because}), but {wanted} ones are needed\n"
            "finetuning would mostly show that difference; delete the folder and get the other one"
        )
    if kind == "unknown":
        print_result(f"passport: {item.path}: {because}; its source says {wanted}")
    node = next((node for node in _trained_first(suite) if _can_measure(node, item)), None)
    if node is None:
        print_result(
            f"passport: {item.path}: not measured, the images are not there\n"
            f"type: deme doctor model={item.path} data=<option>"
        )
        return
    _measure(node, item)


def _trained_first(suite: Suite) -> list[Node]:
    return sorted(suite.nodes, key=lambda node: node.stage != "train")


def _can_measure(node: Node, item: Item) -> bool:
    config = node.config
    model, data = config.get("model") or {}, config.get("data")
    own = node.base is None and model.get("path") == str(item.path)
    return own and bool(data) and not without_files(node)


def _measure(node: Node, item: Item) -> None:
    from deme.builders import Compute, check_images, load_data
    from deme.evaluation.passport import (
        format_passport,
        load_passport,
        raw_warning,
        refuse_contradicted,
    )
    from deme.runs import EvaluateSettings, SearchSettings, TrainSettings

    settings = node.settings
    assert isinstance(settings, (TrainSettings, EvaluateSettings, SearchSettings))
    try:
        device = Compute.of(settings.compute).device
    except BadConfig as error:
        print_result(
            f"passport: {item.path}: not measured: {error.args[0].splitlines()[0]}\n"
            f"type: deme doctor model={item.path} data=<option>"
        )
        return
    model = instantiate(settings.model)
    data = load_data(settings.data, settings.paths, model.image_shape)
    assert data is not None
    check_images(data, model)
    num_images = settings.passport.num_images if isinstance(settings, TrainSettings) else NUM_IMAGES
    passport = load_passport(settings, model, data, device, num_images)
    for line in [*format_passport(passport), *raw_warning(passport)]:
        print_result(f"passport: {line}")
    refuse_contradicted(passport)
