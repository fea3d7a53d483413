"""DDPM checkpoints of the original layout as a UNet2DModel.

The layout is that of Ho et al. (2020), in the names of their PyTorch versions. Their networks count
resolutions from the highest in both halves (`down.0` and `up.0` are at full size); diffusers counts
each half in the order in which it runs. Pure: tensors and names in, tensors, names and a config
out.
"""

import re
from collections.abc import Mapping
from typing import TypeGuard

from torch import Tensor

from deme.system import BadConfig, WorkFailed

State = Mapping[str, Tensor]
# resolutions -> pixels of CIFAR-10's and LSUN's networks; the weights do not know theirs
SIZES = {4: 32, 6: 256}
GROUPS = 32
UNUSED = {"logvar"}  # a parameter of DDIM's `bayesian` models that their network does not use

TOP = {
    "conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out",
    "temb.dense.0": "time_embedding.linear_1", "temb.dense.1": "time_embedding.linear_2",
    "mid.attn_1": "mid_block.attentions.0",
    "mid.block_1": "mid_block.resnets.0", "mid.block_2": "mid_block.resnets.1",
}  # fmt: skip
# norm1, conv1, norm2 and conv2 keep their names
BLOCK = {"temb_proj": "time_emb_proj", "nin_shortcut": "conv_shortcut"}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
PARTS = {"block": ("resnets", BLOCK), "attn": ("attentions", ATTENTION)}
LEVEL = re.compile(
    r"(down|up)\.(\d+)\.(?:(block|attn)\.(\d+)\.(\w+)|(down|up)sample\.conv)\.(weight|bias)"
)
FLAT = re.compile(r"\.(to_q|to_k|to_v|to_out\.0)\.weight$")


def is_original(state: object) -> TypeGuard[State]:
    """Whether `state` is a dict of tensors with names of the original layout, or these with
    `module.` in front of them."""
    return (
        isinstance(state, Mapping)
        and all(isinstance(value, Tensor) for value in state.values())
        and {"temb.dense.0.weight", "conv_in.weight"}
        <= {str(name).removeprefix("module.") for name in state}
    )


def pick(checkpoint: object, ema: bool | None = None) -> tuple[State, bool | None]:
    """Return the state dict in a checkpoint, and whether it is a moving average (None: not known).

    A checkpoint is a state dict, DDIM's list (model, optimizer, epoch, step, and the average if
    there was one), or a dict of parts by name. `ema` says which part to take (default: the average,
    if there is one) or what a bare state dict is. Raises WorkFailed, or BadConfig when that part is
    missing.
    """
    if is_original(checkpoint):
        return checkpoint, ema
    parts: dict[str, State] = {}
    if isinstance(checkpoint, list | tuple):
        parts = dict(zip(("model", "ema"), filter(is_original, checkpoint), strict=False))
    elif isinstance(checkpoint, Mapping):
        parts = {str(name): part for name, part in checkpoint.items() if is_original(part)}
    if not parts:
        raise WorkFailed(
            "no weights of the original DDPM layout in it (temb.dense.0.weight, conv_in.weight, "
            "down.0.block.0.norm1.weight, ...)\n"
            "for Stable Diffusion, type: deme convert <file>.safetensors out=<folder>"
        )
    averages = [name for name in parts if "ema" in name.lower()]
    if isinstance(checkpoint, Mapping) and len(parts) == 1 and not averages:
        return parts.popitem()[1], ema
    averaged = bool(averages) if ema is None else ema
    wanted = averages if averaged else [name for name in parts if name not in averages]
    if len(wanted) != 1:
        kind = "the moving average" if averaged else "the weights"
        raise BadConfig(
            f"{len(wanted)} parts of it could be {kind}; it holds {', '.join(parts)}\n"
            "save the state dict that you mean alone, and give that "
            "(or choose ema=true or ema=false)"
        )
    return parts[wanted[0]], averaged


def convert(state: State, size: int | None = None) -> tuple[dict[str, object], dict[str, Tensor]]:
    """Return the config of a UNet2DModel and its state dict, from one of the original layout.

    The config is read off names and shapes, except `size`, the pixels of an image's side. Raises
    WorkFailed for names that are not of this layout, BadConfig for a network that UNet2DModel
    cannot be, or whose image size must be given.
    """
    named = ((name.removeprefix("module."), value) for name, value in state.items())
    state = {name: value for name, value in named if name not in UNUSED}
    levels = _count(state, r"down\.(\d+)\.")
    architecture = _architecture(state, levels, size)
    renamed = {rename(name, levels): value for name, value in state.items()}
    return architecture, {  # [C, C, 1, 1] -> [C, C]
        name: value.flatten(1) if FLAT.search(name) and value.ndim == 4 else value
        for name, value in renamed.items()
    }


def rename(name: str, levels: int) -> str:
    """Return diffusers' name of a parameter in a network of `levels` resolutions.

    Raises WorkFailed.
    """
    stem, _, kind = name.rpartition(".")
    if stem in TOP:
        return f"{TOP[stem]}.{kind}"
    place, _, leaf = stem.rpartition(".")
    if place in TOP:
        return f"{TOP[place]}.{(ATTENTION if 'attn' in place else BLOCK).get(leaf, leaf)}.{kind}"
    match = LEVEL.fullmatch(name)
    if match is None:
        raise WorkFailed(f"{name} is not a name of the original DDPM layout")
    half, level, part, index, leaf, sampler, kind = match.groups()
    block = f"{half}_blocks.{level if half == 'down' else levels - 1 - int(level)}"
    if sampler:
        return f"{block}.{sampler}samplers.0.conv.{kind}"
    folder, names = PARTS[part]
    return f"{block}.{folder}.{index}.{names.get(leaf, leaf)}.{kind}"


def _architecture(state: State, levels: int, size: int | None) -> dict[str, object]:
    """Return the arguments of UNet2DModel, read off names and shapes.

    Raises WorkFailed, BadConfig.
    """
    try:
        widths = [len(state[f"down.{level}.block.0.conv1.weight"]) for level in range(levels)]
        base, in_channels = state["conv_in.weight"].shape[:2]
        out_channels = len(state["conv_out.weight"])
    except KeyError as error:
        raise WorkFailed(
            f"{error.args[0]} is missing: not a whole checkpoint of the original DDPM layout"
        ) from error
    blocks = {_count(state, rf"down\.{level}\.block\.(\d+)\.") for level in range(levels)}
    attention = [f"down.{level}.attn.0.q.weight" in state for level in range(levels)]
    problems = [
        (not widths or widths[0] != base, "the first resolution has another width than conv_in"),
        (len(blocks) != 1, f"its resolutions have different numbers of blocks: {sorted(blocks)}"),
        (
            any(width % GROUPS for width in widths),
            f"widths {widths} are not multiples of {GROUPS}, the number of groups of its norms",
        ),
        (
            out_channels != in_channels,
            f"it makes {out_channels} channels of {in_channels}: a learned variance",
        ),
        (
            any("conv_shortcut" in name for name in state),
            "its shortcuts are 3x3 convolutions (conv_shortcut)",
        ),
        (
            levels > 1 and "down.0.downsample.conv.weight" not in state,
            "it resizes without convolutions",
        ),
    ]
    for wrong, why in problems:
        if wrong:
            raise BadConfig(f"this network cannot be a UNet2DModel: {why}")
    if size is None and levels not in SIZES:
        raise BadConfig(
            f"a network of {levels} resolutions may make images of any size\ntype: size=<pixels>"
        )
    return {
        "sample_size": SIZES[levels] if size is None else size,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "layers_per_block": blocks.pop(),
        "block_out_channels": widths,
        "down_block_types": ["AttnDownBlock2D" if here else "DownBlock2D" for here in attention],
        "up_block_types": [
            "AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attention)
        ],
        "attention_head_dim": None,  # one head
        "norm_eps": 1e-6,
        "downsample_padding": 0,  # after one more row below and column to the right
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    }


def _count(state: State, pattern: str) -> int:
    """Return one more than the highest index that `pattern` finds in the names."""
    matches = (re.match(pattern, name) for name in state)
    return max((int(match[1]) for match in matches if match), default=-1) + 1
