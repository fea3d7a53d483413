"""The network of Ho et al. 2020 in plain torch, under the names of its PyTorch versions: what `deme convert` is compared to."""

import math

import torch
from torch import nn
from torch.nn import functional


def swish(x):
    return x * torch.sigmoid(x)


def norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


def holder(**children):
    """A module without a forward of its own: it only gives its children a common name."""
    module = nn.Module()
    for name, child in children.items():
        setattr(module, name, child)
    return module


def sinusoids(t, width):
    half = width // 2
    rates = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half))
    angles = t.float().outer(rates)
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


class Block(nn.Module):
    def __init__(self, wide_in, wide_out, time):
        super().__init__()
        self.norm1, self.conv1 = norm(wide_in), nn.Conv2d(wide_in, wide_out, 3, padding=1)
        self.temb_proj = nn.Linear(time, wide_out)
        self.norm2, self.conv2 = norm(wide_out), nn.Conv2d(wide_out, wide_out, 3, padding=1)
        if wide_in != wide_out:
            self.nin_shortcut = nn.Conv2d(wide_in, wide_out, 1)

    def forward(self, x, emb):
        h = self.conv1(swish(self.norm1(x))) + self.temb_proj(swish(emb))[:, :, None, None]
        h = self.conv2(swish(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, wide):
        super().__init__()
        self.norm = norm(wide)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(wide, wide, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))  # [B, C, pixels]
        attended = torch.einsum("bci,bcj->bij", q, k).mul(x.shape[1] ** -0.5).softmax(dim=2)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", attended, v).view_as(x))


class OriginalDDPM(nn.Module):
    def __init__(self, base, multipliers, attention, blocks=2, channels=3):
        super().__init__()
        widths, time, levels = [base * m for m in multipliers], 4 * base, len(multipliers)
        self.base, self.blocks, self.levels = base, blocks, levels
        self.temb = holder(dense=nn.ModuleList([nn.Linear(base, time), nn.Linear(time, time)]))
        self.conv_in = nn.Conv2d(channels, base, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, wide = [base], base
        for level, width in enumerate(widths):
            stage = holder(block=nn.ModuleList(), attn=nn.ModuleList())
            for _ in range(blocks):
                stage.block.append(Block(wide, width, time))
                wide = width
                if level in attention:
                    stage.attn.append(Attention(width))
                skips.append(width)
            if level < levels - 1:
                stage.downsample = holder(conv=nn.Conv2d(width, width, 3, stride=2))
                skips.append(width)
            self.down.append(stage)
        self.mid = holder(
            block_1=Block(wide, wide, time), attn_1=Attention(wide), block_2=Block(wide, wide, time)
        )
        for level in reversed(range(levels)):
            stage = holder(block=nn.ModuleList(), attn=nn.ModuleList())
            for _ in range(blocks + 1):
                stage.block.append(Block(wide + skips.pop(), widths[level], time))
                wide = widths[level]
                if level in attention:
                    stage.attn.append(Attention(wide))
            if level:
                stage.upsample = holder(conv=nn.Conv2d(wide, wide, 3, padding=1))
            self.up.insert(0, stage)
        self.norm_out, self.conv_out = norm(base), nn.Conv2d(base, channels, 3, padding=1)

    def forward(self, x, t):
        emb = self.temb.dense[1](swish(self.temb.dense[0](sinusoids(t, self.base).to(x))))
        h = self.conv_in(x)
        skips = [h]
        for stage in self.down:
            for index, block in enumerate(stage.block):
                h = block(h, emb)
                h = stage.attn[index](h) if len(stage.attn) else h
                skips.append(h)
            if hasattr(stage, "downsample"):
                h = stage.downsample.conv(functional.pad(h, (0, 1, 0, 1)))
                skips.append(h)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h, emb)), emb)
        for stage in reversed(self.up):
            for index, block in enumerate(stage.block):
                h = block(torch.cat([h, skips.pop()], dim=1), emb)
                h = stage.attn[index](h) if len(stage.attn) else h
            if hasattr(stage, "upsample"):
                h = stage.upsample.conv(functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.conv_out(swish(self.norm_out(h)))


def network(seed=0, **shape):
    """A network whose every parameter matters: normally drawn, norms around 1."""
    torch.manual_seed(seed)
    made = OriginalDDPM(**shape)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" in name:
                parameter.copy_(
                    torch.randn_like(parameter) * 0.3 + (1 if name.endswith("weight") else 0)
                )
            elif parameter.ndim == 1:
                parameter.normal_(std=0.1)
    return made.eval()


CIFAR = {"base": 32, "multipliers": (1, 2, 2, 2), "attention": (1,)}
LSUN = {"base": 32, "multipliers": (1, 1, 2, 2, 4, 4), "attention": (4,)}
