"""What a stack reads in the reference: token ids through a table, images cut into patches, frames of sound."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from txcalc.spec.inputs import FrameInput, Input, PatchInput


class Reader(nn.Module):
    """The modules that turn pixels or frames into positions, standing in the module that inherits this."""

    class_tokens: nn.Parameter | None
    mask_token: nn.Parameter | None

    def add_reader(self, own: Input, d_model: int) -> None:
        """Build what ``own`` needs beside a token table."""
        match own:
            case PatchInput(patch=patch, class_tokens=extra):
                self.patch_embedding = nn.Conv2d(own.channels, d_model, patch, stride=patch, bias=own.bias)
                self.class_tokens = nn.Parameter(torch.randn(extra, d_model) * 0.02) if extra else None
                self.mask_token = nn.Parameter(torch.zeros(1, d_model)) if own.mask_token else None
            case FrameInput(bins=bins):
                self.frame_conv1, self.frame_activation1 = nn.Conv1d(bins, d_model, 3, padding=1), nn.GELU()
                self.frame_conv2 = nn.Conv1d(d_model, d_model, 3, stride=2, padding=1)
                self.frame_activation2 = nn.GELU()

    def read(self, own: Input, x: Tensor) -> Tensor:
        """Pixels (b, channels, height, width) or frames (b, bins, 2 * positions) to (b, positions, d)."""
        if isinstance(own, FrameInput):
            x = self.frame_activation1(self.frame_conv1(x))
            return self.frame_activation2(self.frame_conv2(x)).transpose(1, 2)
        patches: Tensor = self.patch_embedding(x).flatten(2).transpose(1, 2)
        if self.class_tokens is None:
            return patches
        return torch.cat((self.class_tokens.expand(x.shape[0], -1, -1), patches), dim=1)
