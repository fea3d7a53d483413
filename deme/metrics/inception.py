"""Features of the Inception-v3 of 2015-12-05, the network of FID, in torch-fidelity's blocks."""

from collections import OrderedDict
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch_fidelity import feature_extractor_inceptionv3 as blocks
from torch_fidelity import interpolate_compat_tensorflow as compat

from deme.metrics.features import CHUNK, FeatureExtractor, read_weights, rgb, weights_file
from deme.system import BadConfig, did_you_mean

SIDE = 299
# pytorch-fid's `dims`: first and second max pooling, Mixed_6e, the last pooling
LAYERS = (64, 192, 768, 2048)


# From uint8 images to Inception's input, in three conventions that give different FIDs
# (docs/metrics.md).


def pytorch(pixels: Tensor) -> Tensor:
    """pytorch-fid, clean-fid's `legacy_pytorch`: bilinear, no antialiasing, on 0..1, to -1..1."""
    images = pixels.float() / 255
    return 2 * interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False) - 1


def clean(pixels: Tensor) -> Tensor:
    """clean-fid (Parmar et al. 2022): Pillow's antialiased bicubic, clamped, (x - 128) / 128."""
    resized = interpolate(
        pixels.float(), size=(SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True
    )
    return (resized.clamp(0, 255) - 128) / 128


def tf(pixels: Tensor) -> Tensor:
    """TensorFlow 1 (Heusel et al. 2017), clean-fid's `legacy_tensorflow`: its own bilinear."""
    resized = compat.interpolate_bilinear_2d_like_tensorflow1x(
        pixels.float(), size=(SIDE, SIDE), align_corners=False
    )
    return (resized - 128) / 128


CONVENTIONS = {"pytorch": pytorch, "clean": clean, "tf": tf}


def trunk(layer: int) -> nn.Sequential:
    """Return the network up to `layer`, with pytorch-fid's parameter names and random weights."""
    stages: dict[int, dict[str, nn.Module]] = {
        64: {
            "Conv2d_1a_3x3": blocks.BasicConv2d(3, 32, kernel_size=3, stride=2),
            "Conv2d_2a_3x3": blocks.BasicConv2d(32, 32, kernel_size=3),
            "Conv2d_2b_3x3": blocks.BasicConv2d(32, 64, kernel_size=3, padding=1),
            "MaxPool_1": nn.MaxPool2d(kernel_size=3, stride=2),
        },
        192: {
            "Conv2d_3b_1x1": blocks.BasicConv2d(64, 80, kernel_size=1),
            "Conv2d_4a_3x3": blocks.BasicConv2d(80, 192, kernel_size=3),
            "MaxPool_2": nn.MaxPool2d(kernel_size=3, stride=2),
        },
        768: {
            "Mixed_5b": blocks.InceptionA(192, pool_features=32),
            "Mixed_5c": blocks.InceptionA(256, pool_features=64),
            "Mixed_5d": blocks.InceptionA(288, pool_features=64),
            "Mixed_6a": blocks.InceptionB(288),
            **{
                f"Mixed_6{letter}": blocks.InceptionC(768, channels_7x7=width)
                for letter, width in (("b", 128), ("c", 160), ("d", 160), ("e", 192))
            },
        },
        2048: {
            "Mixed_7a": blocks.InceptionD(768),
            "Mixed_7b": blocks.InceptionE_1(1280),
            "Mixed_7c": blocks.InceptionE_2(2048),
        },
    }
    kept = (modules.items() for last, modules in stages.items() if last <= layer)
    return nn.Sequential(OrderedDict(chain.from_iterable(kept)))


class InceptionFeatures(FeatureExtractor):
    """Map uint8 images [B, 1 or 3, H, W] to float32 features [B, layer]: channel averages.

    `convention`: pytorch, clean or tf, how images become the network's input;
    grey images are repeated in three channels. `path`: a .safetensors or .pth file with
    pytorch-fid's parameter names, which must hold all that `layer` needs. The distance is called
    fid_<convention> at layer 2048 of the definition, fid_inception<layer> at others.
    """

    def __init__(
        self, path: str, convention: str = "pytorch", layer: int = 2048, sha256: str | None = None
    ) -> None:
        if convention not in CONVENTIONS:
            raise BadConfig(
                f"unknown convention {convention!r}; {did_you_mean(convention, CONVENTIONS)}"
                f"allowed: {', '.join(CONVENTIONS)}"
            )
        if layer not in LAYERS:
            raise BadConfig(
                f"Inception has no layer {layer}; allowed: {', '.join(map(str, LAYERS))}"
            )
        self.preprocess = CONVENTIONS[convention]
        self.dimension = layer
        inner = f"inception{layer}" + ("" if convention == "pytorch" else f"_{convention}")
        self.suffix = convention if layer == 2048 else inner
        self.frechet_name = f"fid_{self.suffix}"
        self.name = f"Inception-v3 2015-12-05, layer {layer}, {convention} convention"
        place, self.weights = weights_file(path, sha256)
        self.network = _load(place, layer)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        maps = (
            self.network(self.preprocess(chunk.to(self.device)))
            for chunk in rgb(pixels, self.frechet_name).split(CHUNK)
        )
        return torch.cat([each.mean((2, 3)).float().cpu() for each in maps])


def _load(place: Path, layer: int) -> nn.Sequential:
    state, network = read_weights(place), trunk(layer)
    needed = {
        name: value.shape
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    wrong = [n for n, shape in needed.items() if n not in state or state[n].shape != shape]
    if wrong:
        missing = {name.split(".")[0] for name in wrong}
        fits = [
            each
            for each in LAYERS
            if each < layer and not missing & {name for name, _ in trunk(each).named_children()}
        ]
        raise BadConfig(
            f"{place} has no fitting {len(wrong)} of the {len(needed)} tensors of layer {layer}, "
            f"first {wrong[0]}\n"
            + (
                f"it holds layer {max(fits)}; type: metrics=inception768 and its layer={max(fits)}"
                if fits
                else "it is not the Inception-v3 of FID"
            )
        )
    network.load_state_dict({name: state[name] for name in needed}, strict=False)
    # channels last: 1.6x faster on a CPU
    return network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
