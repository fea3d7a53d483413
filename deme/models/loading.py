"""Load the model in a folder, whichever of deme/models/families it is; or a LoRA and its base."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from deme.models import families
from deme.models.adapter_files import is_adapter, read_lora
from deme.models.denoiser import DenoisingModel
from deme.models.foreign import check_model_folder
from deme.models.layout import COPY_OF_EMA, check_ema, network_folder, read_json_object
from deme.models.network_inputs import NetworkInputs
from deme.system import BadConfig, MissingInput, locate, model_folders, read_about


def load_pretrained(
    path: str, ema: bool = False, size: int | Sequence[int] | None = None
) -> DenoisingModel:
    """Load the model of a `model` option; see `load_folder`.

    `ema`: take unet_ema/. `size`: pixels per side of its images, or height and width, if not those
    of its configs.
    Raises BadConfig for a size that its network cannot have.
    """
    model = load_folder(path, ema, "model.ema=true")
    set_size(model, size)
    return model


def set_size(
    model: DenoisingModel, size: int | Sequence[int] | None, key: str = "model.size"
) -> None:
    """Let a model make images of `size` pixels per side, or of [height, width], if not None.

    Raises BadConfig for a size that its network cannot have, which names the setting `key`.
    """
    if size is None:
        return
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or min(sides) < 1:
        raise BadConfig(
            f"{key} must be pixels per side or [<height>,<width>], got {size}\n"
            f"type: {key}=512, or '{key}=[512,768]'"
        )
    _, *own = model.image_shape
    factor = max(1, own[0] // model.noise_shape[1])
    multiple = factor * model.size_multiple
    if not model.is_resizable and sides != own:
        shown = own[0] if own[0] == own[1] else f"[{own[0]},{own[1]}]"
        raise BadConfig(
            f"{key}={size}: a {type(model.network).__name__} has images of one size, here "
            f"{shown}\ntype: {key}=null"
        )
    if any(side % multiple for side in sides):
        near = [max(1, side // multiple) * multiple for side in sides]
        fits = near[0] if isinstance(size, int) else f"[{near[0]},{near[1]}]"
        raise BadConfig(
            f"{key}={size} is not a multiple of {multiple} pixels, which the VAE and the network "
            f"need\ntype: {key}={fits}"
        )
    model.sample_size = (sides[0] // factor, sides[1] // factor)


def load_folder(path: str, ema: bool = False, advice: str = COPY_OF_EMA) -> DenoisingModel:
    """Load a diffusers folder of one of the families in deme/models/families.

    Its noise schedule and prediction type are the checkpoint's own
    (docs/method.md#forward-process); weights of any precision become float32. `ema`: take the
    weights of unet_ema/, which some programs write next to unet/; `advice`: how, if they are not
    taken. Raises MissingInput, BadConfig (another kind of model), WorkFailed (damaged, NaN, other
    shapes).
    """
    folder = locate(path)
    if is_adapter(folder):
        return _sized(_adapted(path, folder), folder).eval()
    check_model_folder(path, folder)
    check_ema(path, folder, ema, advice)
    model = _family(path, folder).from_configs(path, folder)
    model.load_weights(folder, ema)
    return _sized(model, folder).eval()


def _sized(model: DenoisingModel, folder: Path) -> DenoisingModel:
    """Return a model with the size of images that its deme.json says, if it says one."""
    if (size := read_about(folder).get("sample_size")) is not None:
        height, width = size
        model.sample_size = height, width
    return model


def _adapted(path: str, folder: Path) -> DenoisingModel:
    """Return the base that an adapter's deme.json names, with the adapter.

    Raises MissingInput for a base that is not here, BadConfig if deme.json does not name the base.
    """
    about = read_about(folder)
    base = about.get("base_model")
    if base is None:
        raise BadConfig(
            f"{path} is a LoRA whose deme.json does not name its base; it can only be merged\n"
            f"type: deme merge model=diffusers model.path=<base> inputs.experts=[{path}]"
        )
    model = load_folder(base, bool(about.get("base_ema")), advice="")
    model.add_adapter(read_lora(folder), is_stored=True)
    model.read_weights(folder)
    return model


class Family(Protocol):
    """A module of deme/models/families.

    `from_configs` makes the model of a folder (`path` names it in messages) without its weights;
    `network_inputs` returns what the network takes, by its config.
    """

    NETWORKS: tuple[str, ...]  # kinds of networks
    MODEL: type[DenoisingModel]  # the class of its models

    def from_configs(self, path: str, folder: Path) -> DenoisingModel: ...

    def network_inputs(
        self, stated: Mapping[str, Any], num_tokens: int | None = None
    ) -> NetworkInputs: ...


def network_type(stated: Mapping[str, object]) -> str:
    """Return the kind of a network's config: its class, and its further conditions, if any."""
    kind, addition = (
        str(stated.get("_class_name") or "UNet2DModel"),
        stated.get("addition_embed_type"),
    )
    if addition is not None:
        return f"{kind} with addition_embed_type={addition}"
    is_inpainting = kind == "UNet2DConditionModel" and stated.get("in_channels") == 9
    return f"{kind} with in_channels=9" if is_inpainting else kind


@functools.cache
def families_by_network() -> Mapping[str, Family]:
    """Return the families by the kinds of networks that they have, see `network_type`."""
    found: dict[str, Family] = {}
    for each in pkgutil.iter_modules(families.__path__):
        module = cast(Family, importlib.import_module(f"{families.__name__}.{each.name}"))
        found |= dict.fromkeys(module.NETWORKS, module)
    return found


def adapter_targets(kind: str) -> Sequence[str]:
    """Return the ends of the names of the layers that an adapter changes by default in a network.

    `kind`: see `network_type`; it must be known.
    """
    return families_by_network()[kind].MODEL.adapter_targets


def _family(path: str, folder: Path) -> Family:
    """Return the family of a folder's model. Raises MissingInput, BadConfig (unknown network)."""
    stated = read_json_object(network_folder(folder) / "config.json")
    if not stated:
        inside = [place.name for place in model_folders(folder)]
        raise MissingInput(
            f"{path} is not a diffusers model folder: it needs unet/config.json or "
            "transformer/config.json, and scheduler/scheduler_config.json (or both files at its "
            "top)"
            + (f"\nit is a run; type: model.path={path}/weights/{inside[0]}" if inside else "")
        )
    kind, known = network_type(stated), families_by_network()
    if kind not in known:
        raise BadConfig(f"{path} holds a {kind}; allowed: {', '.join(known)}")
    return known[kind]
