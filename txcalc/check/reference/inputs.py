"""Inputs of a stack in the reference: token ids through a table, images cut into patches, frames of sound."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from txcalc.spec.inputs import FrameInput, Grid, Input, PatchInput, TokenInput


class Reader(nn.Module):
    """The modules that turn pixels or frames into positions, standing in the module that inherits this."""

    patch_embedding: nn.Module

    def add_reader(self, own: Input, d_model: int) -> None:
        """Build what ``own`` needs beside a token table."""
        match own:
            case PatchInput(normed=True, patch=patch):
                pixels, self.class_tokens, self.mask_token = own.channels * patch**2, None, None
                self.pixel_norm, self.patch_norm = nn.LayerNorm(pixels), nn.LayerNorm(d_model)
                self.patch_embedding = nn.Linear(pixels, d_model, bias=own.bias)
            case PatchInput(patch=patch, class_tokens=extra):
                kernel, around = own.kernel or patch, 0 if own.kernel is None else own.kernel // 2
                self.patch_embedding = nn.Conv2d(own.channels, d_model, kernel, patch, around, bias=own.bias)
                self.class_tokens = nn.Parameter(torch.randn(extra, d_model) * 0.02) if extra else None
                self.mask_token = nn.Parameter(torch.zeros(1, d_model)) if own.mask_token else None
            case TokenInput(mask_token=True):
                self.mask_token = nn.Parameter(torch.zeros(1, d_model))
            case FrameInput(bins=bins, grid=Grid(channels=wide)):
                for i in (1, 2, 3):
                    self.add_module(f"frame_conv{i}", nn.Conv2d(1 if i == 1 else wide, wide, 3, stride=2, padding=1))
                    self.add_module(f"frame_activation{i}", nn.GELU())
                self.frame_projection = nn.Linear(wide * -(-bins // 8), d_model, bias=False)
            case FrameInput(bins=bins):
                self.frame_conv1, self.frame_activation1 = nn.Conv1d(bins, d_model, 3, padding=1), nn.GELU()
                self.frame_conv2 = nn.Conv1d(d_model, d_model, 3, stride=2, padding=1)
                self.frame_activation2 = nn.GELU()

    def read(self, own: Input, x: Tensor) -> Tensor:
        """Pixels (b, channels, height, width) or frames (b, bins, 2 * positions) to (b, positions, d)."""
        if isinstance(own, FrameInput) and own.grid is not None:
            x = x.unflatten(2, (-1, own.grid.frames)).transpose(1, 2).flatten(0, 1).unsqueeze(1)
            for i in (1, 2, 3):
                x = getattr(self, f"frame_activation{i}")(getattr(self, f"frame_conv{i}")(x))
            made: Tensor = self.frame_projection(x.permute(0, 3, 1, 2).flatten(2))
            return made.view(-1, own.length, made.shape[-1])
        if isinstance(own, FrameInput):
            x = self.frame_activation1(self.frame_conv1(x))
            return self.frame_activation2(self.frame_conv2(x)).transpose(1, 2)
        if isinstance(own, PatchInput) and own.normed:
            used = x.shape[2] // own.patch * own.patch  # a border too narrow for a whole patch is left out
            rows = F.pixel_unshuffle(x[:, :, :used, :used], own.patch).flatten(2).transpose(1, 2)
            return self.patch_norm(self.patch_embedding(self.pixel_norm(rows)))
        patches: Tensor = self.patch_embedding(x).flatten(2).transpose(1, 2)
        if self.class_tokens is None:
            return patches
        return torch.cat((self.class_tokens.expand(x.shape[0], -1, -1), patches), dim=1)
