import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

from cflows import data

SHARED = Path(__file__).resolve().parents[2] / "shared/data/cifar-10-batches-bin"
OFFICIAL = Path(os.environ.get("CFLOWS_DATA", SHARED))  # where the official files are, for the tests that need them
needs_official = pytest.mark.skipif(
    not (OFFICIAL / "data_batch_1.bin").exists(),
    reason="no official CIFAR-10 batches here; name their folder in CFLOWS_DATA",
)


def test_shapes_labels_and_scale():
    images, labels = data.cifar10(250)
    assert images.shape == (1000, 3, 32, 32)
    assert images.dtype == torch.float32
    assert torch.bincount(labels).tolist() == [250] * 4
    assert abs(images.mean()) < 0.2
    assert 0.8 < images.std() < 1.2
    images, labels = data.cifar10(50, split="test")
    assert images.shape == (200, 3, 32, 32)


def test_a_smaller_request_is_a_part_of_a_larger_one():
    large, labels = data.cifar10(20)
    small, few = data.cifar10(5, classes=(2, 0))
    for position, c in enumerate((2, 0)):
        torch.testing.assert_close(small[few == position], large[labels == c][:5])


def test_sizes_are_averages_over_blocks():
    full, _ = data.cifar10(2)
    half, _ = data.cifar10(2, size=16)
    torch.testing.assert_close(half[0, 1, 3, 5], full[0, 1, 6:8, 10:12].mean())


@needs_official
@pytest.mark.parametrize(
    ("split", "name", "count"), [("train", "data_batch_1.bin", 250), ("test", "test_batch.bin", 50)]
)
def test_the_subset_is_exact(split, name, count):
    content = (OFFICIAL / name).read_bytes()
    assert sha256(content).hexdigest() == data.SHA256[name]
    records = np.frombuffer(content, np.uint8).reshape(-1, data.RECORD)
    ours = data._embedded(split)
    for c in range(4):
        np.testing.assert_array_equal(ours[ours[:, 0] == c], records[records[:, 0] == c][:count])
    assert len(ours) == 4 * count


@needs_official
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_gives_the_same_images(monkeypatch, split):
    ours = data.cifar10(30, split=split)
    monkeypatch.setenv("CFLOWS_DATA", str(OFFICIAL))
    for a, b in zip(ours, data.cifar10(30, split=split), strict=True):
        assert (a == b).all()
    assert len(data.cifar10(60, classes=(9, 4), split=split)[0]) == 120  # more than the package carries
    monkeypatch.setenv("CFLOWS_DATA", str(OFFICIAL.parent))  # the folder that holds the official one
    assert len(data.cifar10(1, split=split)[0]) == 4


@needs_official
def test_a_folder_with_too_few_batches_says_what_it_has(monkeypatch):
    monkeypatch.setenv("CFLOWS_DATA", str(OFFICIAL))
    with pytest.raises(data.DataError, match=r"2000 images .* CFLOWS_DATA.* has \d+ of airplane"):
        data.cifar10(2000)


@needs_official
def test_truncated_and_corrupt_files(monkeypatch, tmp_path):
    monkeypatch.setenv("CFLOWS_DATA", str(tmp_path))
    content = bytearray((OFFICIAL / "data_batch_1.bin").read_bytes())
    (tmp_path / "data_batch_1.bin").write_bytes(content[:-1])
    with pytest.raises(
        data.DataError, match=r"data_batch_1\.bin has 30,729,999 bytes instead of 30,730,000; it is truncated"
    ):
        data.cifar10(1)
    content[12345] ^= 1
    (tmp_path / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(data.DataError, match=r"data_batch_1\.bin is corrupt: its SHA-256"):
        data.cifar10(1)


def test_a_folder_that_is_not_there_or_empty(monkeypatch, tmp_path):
    monkeypatch.setenv("CFLOWS_DATA", str(tmp_path / "nothing"))
    with pytest.raises(data.DataError, match=r"CFLOWS_DATA=.*nothing is not a folder"):
        data.cifar10(1)
    monkeypatch.setenv("CFLOWS_DATA", str(tmp_path))
    with pytest.raises(data.DataError, match=r"has no data_batch_1\.bin"):
        data.cifar10(1)


def test_no_network_says_how_else(monkeypatch, tmp_path):
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path)
    monkeypatch.setattr(data, "URL", "http://localhost:9/cifar-10-binary.tar.gz")  # nothing listens there
    with pytest.raises(data.DataError, match=r"could not get CIFAR-10 from http://localhost:9/.*CFLOWS_DATA"):
        data.cifar10(251)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@needs_official
def test_the_archive_is_checked_and_unpacked(monkeypatch, tmp_path):
    import tarfile

    archive = tmp_path / "source.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(OFFICIAL / "test_batch.bin", f"{data.FOLDER}/test_batch.bin")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache")

    def fetch(url, output_file, _):
        Path(output_file).write_bytes(archive.read_bytes())

    real = pooch.retrieve
    monkeypatch.setattr(pooch, "retrieve", lambda *a, **k: real(*a, downloader=fetch, **(k | {"progressbar": False})))
    with pytest.raises(data.DataError, match="hash"):  # not the official archive
        data.cifar10(100, split="test")
    monkeypatch.setattr(data, "ARCHIVE_SHA256", sha256(archive.read_bytes()).hexdigest())
    assert len(data.cifar10(100, split="test")[0]) == 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"per_class": 0}, "per_class is 0"),
        ({"classes": (0, 0)}, r"classes is \[0, 0\]"),
        ({"classes": (0, 10)}, "labels from 0 to 9"),
        ({"size": 15}, "size is 15"),
        ({"split": "val"}, "'val'"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.cifar10(**arguments)
