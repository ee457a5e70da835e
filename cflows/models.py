"""Small networks with smooth activations, whose third derivatives exist and are correct (tests check it).

No layer mixes examples, so that a full-batch loss is a sum over batches.
"""

from __future__ import annotations

import torch
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


class MLP(nn.Sequential):
    """A network of two hidden layers with tanh.

    Parameters
    ----------
    inputs : int
        Numbers in an example, of any shape.
    width : int
        Units of each hidden layer.
    classes : int
        Outputs.
    """

    def __init__(self, inputs: int, width: int = 64, classes: int = 4):
        super().__init__(
            nn.Flatten(), nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
            nn.Linear(width, classes),
        )  # fmt: skip


class CNN(nn.Module):
    """Three 3x3 convolutions with GELU, no normalisation; mean pooling halves the resolution after the first two.

    Parameters
    ----------
    width : int
        Channels of the first convolution; twice and four times as many in the others.
    classes : int
        Outputs.
    """

    def __init__(self, width: int = 16, classes: int = 4):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.GELU(), nn.AvgPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.GELU(), nn.AvgPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.GELU(),
        )  # fmt: skip
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, size, size) -> scores (N, classes)."""
        return self.head(self.body(x).mean(dim=(2, 3)))


class Transformer(nn.Module):
    """Blocks of attention :cite:`vaswani2017` over a whole sequence of vectors, normalised first, with GELU.

    Parameters
    ----------
    length : int
        Vectors in a sequence.
    width : int
        Size of each; four heads share it.
    depth : int
        Blocks.
    """

    def __init__(self, length: int, width: int = 32, depth: int = 2):
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
                for _ in range(depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, length, width) -> (N, length, width)."""
        return self.blocks(x + self.position)


class VisionTransformer(nn.Module):
    """A small vision transformer :cite:`dosovitskiy2021`: patches are vectors, their mean is classified.

    Parameters
    ----------
    size : int
        Side of the images in pixels.
    patch : int
        Side of a patch; it divides ``size``.
    width, depth : int
        As of `Transformer`.
    classes : int
        Outputs.
    """

    def __init__(self, size: int = 16, patch: int = 4, width: int = 32, depth: int = 2, classes: int = 4):
        super().__init__()
        if size % patch:
            raise ValueError(f"patch is {patch}; it must divide the {size} pixels of an image's side")
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.body, self.head = Transformer((size // patch) ** 2, width, depth), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, size, size) -> scores (N, classes)."""
        return self.head(self.body(self.embed(x).flatten(2).transpose(1, 2)).mean(dim=1))


class SequenceTransformer(nn.Module):
    """A `Transformer` from tokens to tokens.

    Parameters
    ----------
    tokens : int
        Different tokens.
    length : int
        Tokens in a sequence.
    width, depth : int
        As of `Transformer`.
    """

    def __init__(self, tokens: int = 8, length: int = 8, width: int = 32, depth: int = 2):
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.body, self.head = Transformer(length, width, depth), nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, length) -> scores (N, length, tokens)."""
        return self.head(self.body(self.embed(x)))
