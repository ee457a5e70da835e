"""Small networks with smooth activations, whose third derivatives exist and are correct (tests check it).

No layer mixes examples, so that a full-batch loss is a sum over batches.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def _norm(channels: int) -> nn.Module:
    """Layer normalisation over channels and pixels of each example (`ResNet`), scaled channel by channel."""
    return nn.GroupNorm(1, channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with normalisation and GELU, added to the input (projected where shapes differ).

    Parameters
    ----------
    channels_in, channels : int
        Channels of the input and of the output.
    stride : int
        The resolution is divided by it.
    """

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = _norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = _norm(channels)
        same = stride == 1 and channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, size, size) -> (N, channels, size / stride, size / stride)."""
        y = F.gelu(self.norm1(self.conv1(x)))
        return F.gelu(self.shortcut(x) + self.norm2(self.conv2(y)))


class ResNet(nn.Module):
    """A residual network for small images :cite:`he2016`, smooth, and without ties between examples.

    Three stages; the resolution is halved at the start of the second and the third. GELU :cite:`hendrycks2016` is its
    activation; the normalisation is that of each example by itself over channels and pixels :cite:`ba2016`.

    Parameters
    ----------
    width : int
        Channels of the first stage; twice and four times as many in the others.
    blocks : int
        Blocks in each stage.
    classes : int
        Outputs.
    """

    def __init__(self, width: int = 16, blocks: int = 3, classes: int = 4):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), _norm(width), nn.GELU()]
        channels = width
        for stage in range(3):
            for block in range(blocks):
                out, stride = width * 2**stage, 2 if stage > 0 and block == 0 else 1
                layers.append(ResidualBlock(channels, out, stride))
                channels = out
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, size, size) -> scores (N, classes)."""
        return self.head(self.body(x).mean(dim=(2, 3)))
