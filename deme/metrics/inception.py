"""Features of the Inception-v3 of 2015-12-05, the network behind FID; its blocks are torch-fidelity's."""

from pathlib import Path

import torch
from torch import Tensor, nn

from deme.metrics.features import read_weights, rgb, weights_file
from deme.metrics.resize import CONVENTIONS
from deme.system import files
from deme.system.errors import BadConfig, did_you_mean

LAYERS = (
    64,
    192,
    768,
    2048,
)  # pytorch-fid's `dims`: first and second max pooling, Mixed_6e, the last pooling
NOT_IT = "it is no Inception-v3 of FID"
CHUNK = 50  # images in the network at once


def trunk(layer: int) -> nn.Sequential:
    """Return the network from its first convolution up to `layer`, parameters named as pytorch-fid's, random."""
    from torch_fidelity import feature_extractor_inceptionv3 as blocks

    def basic(*channels: int, **more: int) -> nn.Module:
        return blocks.BasicConv2d(*channels, **more)

    stages: dict[int, dict[str, nn.Module]] = {
        64: {
            "Conv2d_1a_3x3": basic(3, 32, kernel_size=3, stride=2),
            "Conv2d_2a_3x3": basic(32, 32, kernel_size=3),
            "Conv2d_2b_3x3": basic(32, 64, kernel_size=3, padding=1),
            "MaxPool_1": nn.MaxPool2d(kernel_size=3, stride=2),
        },
        192: {
            "Conv2d_3b_1x1": basic(64, 80, kernel_size=1),
            "Conv2d_4a_3x3": basic(80, 192, kernel_size=3),
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
    network = nn.Sequential()
    for last, modules in stages.items():
        if last <= layer:
            for name, module in modules.items():
                network.add_module(name, module)
    return network


class InceptionFeatures:
    """Map uint8 images [B, 1 or 3, H, W] to float32 features [B, layer]: global averages of the layer's channels.

    `convention`: pytorch, clean or tf, how images become the network's input (deme.metrics.resize). Grey images are shown
    as RGB. `path`: a .safetensors or .pth file with pytorch-fid's parameter names; a file that lacks what `layer`
    needs is refused. The distance is called fid_<convention> at the paper's layer 2048, fid_inception<layer> at others.
    """

    def __init__(
        self, path: str, convention: str = "pytorch", layer: int = 2048, sha256: str | None = None
    ) -> None:
        if convention not in CONVENTIONS:
            raise BadConfig(
                f"unknown convention {convention!r}; {did_you_mean(convention, CONVENTIONS)}allowed: {', '.join(CONVENTIONS)}"
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
        place = weights_file(path, sha256)
        self.network = _load(place, layer)
        self.weights = files.sha256(place)
        self.device = "cpu"

    def to(self, device: str) -> "InceptionFeatures":
        """Move the network to a device and return self."""
        self.network.to(device)
        self.device = device
        return self

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        chunks = rgb(pixels, self.frechet_name).split(CHUNK)
        maps = (self.network(self.preprocess(chunk.to(self.device))) for chunk in chunks)
        return torch.cat([each.mean((2, 3)).float().cpu() for each in maps])


def _load(place: Path, layer: int) -> nn.Sequential:
    state = read_weights(place)
    network = trunk(layer)
    counters = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    needed = {
        name: value.shape for name, value in network.state_dict().items() if name not in counters
    }
    wrong = [
        name for name, shape in needed.items() if name not in state or state[name].shape != shape
    ]
    if wrong:
        missing = {name.split(".")[0] for name in wrong}
        fits = [
            each
            for each in LAYERS
            if each < layer and not missing & {name for name, _ in trunk(each).named_children()}
        ]
        raise BadConfig(
            f"{place} lacks {len(wrong)} of the {len(needed)} tensors that layer {layer} needs, first {wrong[0]}\n"
            + (
                f"it has what layer {max(fits)} needs: metrics=inception768 and its layer={max(fits)}"
                if fits
                else NOT_IT
            )
        )
    network.load_state_dict({name: state[name] for name in needed}, strict=False)
    return (
        network.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    )  # 1.6x faster on a CPU
