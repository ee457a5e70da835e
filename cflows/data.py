"""CIFAR-10 :cite:`krizhevsky2009`.

The package carries the first 250 training images of ``data_batch_1.bin`` and the first 50 test images of each of four
classes, byte for byte. Anything larger comes from the official archive, or from a folder named by ``CFLOWS_DATA``.
A request for the first m images of some classes gives the same images whichever of the three serves it.
"""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import pooch
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

#: Names of the ten classes, in the order of their labels.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
#: Mean of each channel over the 50,000 training images, pixels in [0, 1].
MEAN = (0.49140, 0.48216, 0.44653)
#: Their standard deviation.
STD = (0.24703, 0.24349, 0.26159)

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
FOLDER = "cifar-10-batches-bin"
RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue planes in row order
SHA256 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
Split = Literal["train", "test"]


class DataError(ValueError):
    """The data asked for are missing, damaged or too few."""


def cifar10(
    per_class: int = 250,
    classes: Sequence[int] = (0, 1, 2, 3),
    size: int = 32,
    split: Split = "train",
) -> tuple[Float[Tensor, "N 3 size size"], Int[Tensor, "N"]]:
    """The first images of each class, standardised, in the order of the official files.

    Parameters
    ----------
    per_class : int
        Images of each class.
    classes : sequence of int
        Official labels 0-9 (names in `CLASSES`).
    size : int
        Side in pixels: 32, or a divisor of it (blocks of pixels are averaged).
    split : "train" or "test"

    Returns
    -------
    images : float32 Tensor (N, 3, size, size)
        (pixel / 255 - `MEAN`) / `STD`, averaged down to ``size``.
    labels : int64 Tensor (N,)
        Position in ``classes``, 0 to len(classes) - 1.

    Raises
    ------
    DataError
        If the folder in ``CFLOWS_DATA`` lacks the files, a file is truncated or corrupt, there are not enough images,
        or the official archive can't be downloaded.
    ValueError, TypeError
        If an argument is out of range, or not an integer where one is needed.
    """
    for name, value in (("per_class", per_class), ("size", size)):
        if not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name} is {value!r}; it must be an integer")
    classes = [classes] if isinstance(classes, int) else list(classes)
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; it must be 'train' or 'test'")
    if not classes or len(set(classes)) < len(classes) or not set(classes) <= set(range(10)):
        raise ValueError(f"classes is {classes}; give different labels from 0 to 9")
    if per_class < 1:
        raise ValueError(f"per_class is {per_class}; it must be at least 1")
    if size < 1 or 32 % size:
        raise ValueError(f"size is {size}; it must be a divisor of 32")

    records = _select(split, per_class, classes)
    position = torch.zeros(10, dtype=torch.int64, device="cpu")
    position[classes] = torch.arange(len(classes), device="cpu")
    labels = position[torch.from_numpy(records[:, 0].astype(np.int64))]
    pixels = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32)) / 255
    mean, std = (torch.tensor(v, dtype=torch.float32, device="cpu")[:, None, None] for v in (MEAN, STD))
    return F.avg_pool2d((pixels - mean) / std, 32 // size), labels


def digest(*tensors: Tensor) -> str:
    """SHA-256 of tensors: it identifies data in the provenance of a run.

    Parameters
    ----------
    *tensors : Tensor
        Of any shapes and types; these enter the digest too.

    Returns
    -------
    str
        Hexadecimal.
    """
    h = sha256()
    for t in tensors:
        h.update(f"{tuple(t.shape)}{t.dtype}".encode())
        h.update(t.detach().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()


def _select(split: Split, per_class: int, classes: list[int]) -> UInt8[np.ndarray, "N 3073"]:
    """Records of the first ``per_class`` images of each class, from the first source that has them."""
    if folder := os.environ.get("CFLOWS_DATA"):
        return _first(_folder(Path(folder), split), per_class, classes, f"the folder CFLOWS_DATA={folder}")
    try:
        return _first([_embedded(split)], per_class, classes, "the images that come with the package")
    except _TooFew:
        return _first(_official(split), per_class, classes, "the official archive")


class _TooFew(DataError):
    pass


def _first(batches: Iterator | list, per_class: int, classes: list[int], where: str) -> np.ndarray:
    """Records from batches in order, until every class has enough."""
    taken: list[np.ndarray] = []
    have = dict.fromkeys(classes, 0)
    for records in batches:
        rows = []
        for c in classes:
            found = np.flatnonzero(records[:, 0] == c)[: per_class - have[c]]
            have[c] += len(found)
            rows.append(found)
        taken.append(records[np.sort(np.concatenate(rows))])
        if min(have.values()) == per_class:
            return np.concatenate(taken)
    counts = ", ".join(f"{n} of {CLASSES[c]}" for c, n in have.items())
    raise _TooFew(
        f"{per_class} images of each class are needed and {where} has {counts}; ask for fewer, "
        "or put more of the official batches there"
    )


def _embedded(split: Split) -> np.ndarray:
    file = resources.files("cflows") / "_data" / f"cifar10_{split}.bin.xz"
    return np.frombuffer(lzma.decompress(file.read_bytes()), np.uint8).reshape(-1, RECORD)


def _folder(folder: Path, split: Split) -> Iterator[np.ndarray]:
    """The batches of a split that a folder has, in order, up to the first that is missing."""
    if not folder.is_dir():
        raise DataError(f"CFLOWS_DATA={folder} is not a folder; unset it, or name the one with data_batch_1.bin")
    names = [name for name in SHA256 if name.startswith("data" if split == "train" else "test")]
    if not (folder / names[0]).exists() and (folder / FOLDER).is_dir():
        folder = folder / FOLDER
    if not (folder / names[0]).exists():
        raise DataError(f"{folder} has no {names[0]}; put the official {FOLDER} files there, or unset CFLOWS_DATA")
    for name in names:
        if not (folder / name).exists():
            return
        content = (folder / name).read_bytes()
        if len(content) != 10_000 * RECORD:
            raise DataError(
                f"{folder / name} has {len(content):,} bytes instead of {10_000 * RECORD:,}; it is truncated "
                "or not a CIFAR-10 batch: copy it again from the official archive"
            )
        if (found := sha256(content).hexdigest()) != SHA256[name]:
            raise DataError(
                f"{folder / name} is corrupt: its SHA-256 is {found} instead of {SHA256[name]}; copy it again "
                "from the official archive"
            )
        yield np.frombuffer(content, np.uint8).reshape(-1, RECORD)


def _official(split: Split) -> Iterator[np.ndarray]:
    """The official archive, downloaded once to the user's cache (pooch checks it before it puts it there)."""
    cache = Path(pooch.os_cache("cflows"))
    try:
        pooch.retrieve(
            URL,
            known_hash=f"sha256:{ARCHIVE_SHA256}",
            path=cache,
            fname="cifar-10-binary.tar.gz",
            processor=pooch.Untar(extract_dir="cifar-10"),
            progressbar=True,
        )
    except Exception as error:
        raise DataError(
            f"could not get CIFAR-10 from {URL} ({type(error).__name__}: {error}); download it another way, unpack it "
            f"and set CFLOWS_DATA to its folder {FOLDER}, or ask for at most 250 train and 50 test images "
            "of the classes 0-3, which come with the package"
        ) from error
    yield from _folder(cache / "cifar-10" / FOLDER, split)
