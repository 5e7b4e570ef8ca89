"""The network of the released code, written plainly from its description and run from a state dict, for tests alone."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sinusoid(t: Tensor, channels: int) -> Tensor:
    half = channels // 2
    angle = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
    return F.pad(torch.cat([angle.cos(), angle.sin()], 1), (0, channels % 2))


class Reference:
    """`weights` under the released names; `flags` as in `convert.DEFAULT_FLAGS`, multipliers as a list of numbers."""

    def __init__(self, weights: dict[str, Tensor], flags: dict) -> None:
        self.w, self.flags = weights, flags

    def __call__(self, x: Tensor, t: Tensor, h: Tensor | None = None) -> Tensor:
        flags = self.flags
        if flags["rescale_timesteps"]:
            t = t.float() * (1000 / flags["diffusion_steps"])
        emb = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", sinusoid(t, flags["num_channels"]))))
        if h is not None:
            emb = emb + self.linear("ssl_emb", h)
        levels, depth = len(flags["channel_mult"]), flags["num_res_blocks"]
        factors = [flags["image_size"] // size for size in flags["attention_resolutions"]]
        x = self.conv("input_blocks.0.0", x)
        kept, entry = [x], 1
        for level in range(levels):
            for _ in range(depth):
                x = self.residual(f"input_blocks.{entry}.0", x, emb)
                if 2**level in factors:
                    x = self.attention(f"input_blocks.{entry}.1", x, flags["num_heads"])
                kept.append(x)
                entry += 1
            if level < levels - 1:
                if flags["resblock_updown"]:
                    x = self.residual(f"input_blocks.{entry}.0", x, emb, lambda y: F.avg_pool2d(y, 2))
                else:
                    x = self.conv(f"input_blocks.{entry}.0.op", x, stride=2)
                kept.append(x)
                entry += 1
        x = self.residual("middle_block.0", x, emb)
        x = self.attention("middle_block.1", x, flags["num_heads"])
        x = self.residual("middle_block.2", x, emb)
        heads = flags["num_heads"] if flags["num_heads_upsample"] == -1 else flags["num_heads_upsample"]
        entry = 0
        for level in reversed(range(levels)):
            for k in range(depth + 1):
                x = self.residual(f"output_blocks.{entry}.0", torch.cat([x, kept.pop()], 1), emb)
                place = 1
                if 2**level in factors:
                    x, place = self.attention(f"output_blocks.{entry}.1", x, heads), 2
                if k == depth and level > 0:
                    name = f"output_blocks.{entry}.{place}"
                    if flags["resblock_updown"]:
                        x = self.residual(name, x, emb, lambda y: F.interpolate(y, scale_factor=2.0))
                    else:
                        x = self.conv(f"{name}.conv", F.interpolate(x, scale_factor=2.0))
                entry += 1
        return self.conv("out.2", F.silu(self.norm("out.0", x)))

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return F.conv2d(x, weight, self.w[f"{name}.bias"], stride=stride, padding=weight.shape[2] // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 32, self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-5)

    def residual(self, name: str, x: Tensor, emb: Tensor, resample=lambda y: y) -> Tensor:
        y = self.conv(f"{name}.in_layers.2", resample(F.silu(self.norm(f"{name}.in_layers.0", x))))
        e = self.linear(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
        if self.flags["use_scale_shift_norm"]:
            scale, shift = e.chunk(2, 1)
            y = self.norm(f"{name}.out_layers.0", y) * (1 + scale) + shift
        else:
            y = self.norm(f"{name}.out_layers.0", y + e)
        y = self.conv(f"{name}.out_layers.3", F.silu(y))
        x = resample(x)
        return y + (self.conv(f"{name}.skip_connection", x) if f"{name}.skip_connection.weight" in self.w else x)

    def attention(self, name: str, x: Tensor, heads: int) -> Tensor:
        c = x.shape[1]
        heads = heads if self.flags["num_head_channels"] == -1 else c // self.flags["num_head_channels"]
        y = F.conv1d(self.norm(f"{name}.norm", x).flatten(2), self.w[f"{name}.qkv.weight"], self.w[f"{name}.qkv.bias"])
        if self.flags["use_new_attention_order"]:
            q, k, v = y.unflatten(1, (3, heads, c // heads)).unbind(1)
        else:
            q, k, v = y.unflatten(1, (heads, 3, c // heads)).unbind(2)
        weights = torch.softmax(q.transpose(2, 3) @ k / math.sqrt(c // heads), -1)
        y = (v @ weights.transpose(2, 3)).flatten(1, 2)
        y = F.conv1d(y, self.w[f"{name}.proj_out.weight"], self.w[f"{name}.proj_out.bias"])
        return x + y.view_as(x)
