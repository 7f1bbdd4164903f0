"""Named sets, from files that lie where users put them."""

import gzip
import hashlib
import io
import pickle
import sys
import tarfile

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from curvescope import data
from curvescope._core.errors import MissingExtraError


def _idx(array):
    shape = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)


@pytest.fixture
def rows():
    return np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)


LABELS = np.array([5, 0, 4, 1, 9, 2], np.uint8)
FORMS = ["{0}-{1}-idx{2}-ubyte.gz", "{0}-{1}-idx{2}-ubyte", "{0}-{1}.idx{2}-ubyte"]


def _write_mnist(folder, pixels, form=FORMS[0], stem="train"):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images", pixels), ("labels", LABELS[: len(pixels)])):
        path = folder / form.format(stem, kind, array.ndim)
        content = _idx(array)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def _python_batch(rows, labels, key="labels"):
    batch = {b"data": rows, key.encode(): [int(label) for label in labels]}
    return pickle.dumps(batch, protocol=2)


def _archive(path, members):
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("below", ["", "raw"])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_files_of_the_mnist_family_are_found(tmp_path, pixels, name, form, below):
    _write_mnist(tmp_path / name / below, pixels, form)

    loaded = data.load(name, root=tmp_path, download=False)

    image, label = loaded[3]
    assert image.dtype == torch.float32
    assert image.shape == (1, 28, 28)
    assert (label, type(label)) == (1, int)
    np.testing.assert_array_equal(image[0] * 255, pixels[3])
    assert len(loaded) == 6


def test_files_that_are_not_the_published_ones_are_used_and_named(tmp_path, pixels):
    _write_mnist(tmp_path / "mnist", pixels)

    loaded = data.load("mnist", root=tmp_path, download=False)

    assert not loaded.official
    assert "train-images-idx3-ubyte.gz" in loaded.notes[0]
    assert "6 of the 60,000 images" in loaded.notes[1]
    assert "not the official files" in repr(loaded)


def test_absent_files_are_named_where_nothing_may_be_downloaded(tmp_path, pixels):
    _write_mnist(tmp_path / "mnist", pixels)

    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte.gz, t10k-"):
        data.load("mnist", root=tmp_path, split="test", download=False)
    with pytest.raises(FileNotFoundError, match=r"test_batch or test_batch.bin"):
        data.load("cifar10", root=tmp_path, split="test", download=False)


def test_images_and_labels_that_do_not_belong_together_are_refused(tmp_path, pixels):
    _write_mnist(tmp_path / "mnist", pixels)
    path = tmp_path / "mnist" / "train-labels-idx1-ubyte.gz"

    path.write_bytes(_idx(LABELS[:5]))
    with pytest.raises(ValueError, match=r"images \(6, 28, 28\), labels \(5,\)"):
        data.load("mnist", root=tmp_path)
    path.write_bytes(_idx(LABELS + 1))
    with pytest.raises(ValueError, match="a label 10, where there are 10 classes"):
        data.load("mnist", root=tmp_path)


def test_a_truncated_local_file_is_refused_by_its_name(tmp_path, pixels):
    _write_mnist(tmp_path / "mnist", pixels)
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(ValueError, match=r"whole IDX files; got .*train-images"):
        data.load("mnist", root=tmp_path)


@pytest.mark.parametrize("below", ["", "cifar-10-batches-py"])
def test_the_parts_of_cifar10_that_are_there_are_used_and_named(tmp_path, rows, below):
    folder = tmp_path / "cifar10" / below
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(_python_batch(rows, [1, 2, 3, 4]))
    (folder / "data_batch_3").write_bytes(_python_batch(rows + 1, [5, 6, 7, 8]))

    loaded = data.load("cifar10", root=tmp_path, download=False)

    images, labels = loaded.tensors()
    assert labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    np.testing.assert_array_equal((images[5] * 255).reshape(-1), (rows + 1)[1])
    assert "absent: data_batch_2, data_batch_4, data_batch_5" in loaded.notes


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_the_binary_version_of_cifar10_is_found(tmp_path, rows, below):
    folder = tmp_path / "cifar10" / below
    folder.mkdir(parents=True)
    records = np.hstack([np.array([[1], [2], [3], [9]], np.uint8), rows])
    (folder / "test_batch.bin").write_bytes(records.tobytes())

    loaded = data.load("cifar10", root=tmp_path, split="test", download=False)

    assert loaded.tensors()[1].tolist() == [1, 2, 3, 9]


def test_both_versions_of_cifar100_give_the_fine_labels(tmp_path, rows):
    labels = [99, 0, 3, 50]
    (tmp_path / "cifar100").mkdir()
    content = _python_batch(rows, labels, "fine_labels")
    (tmp_path / "cifar100" / "train").write_bytes(content)
    coarse = np.full((4, 1), 7, np.uint8)
    records = np.hstack([coarse, np.array(labels, np.uint8)[:, None], rows])
    (tmp_path / "cifar100" / "test.bin").write_bytes(records.tobytes())

    for split in ("train", "test"):
        loaded = data.load("cifar100", root=tmp_path, split=split, download=False)

        assert loaded.tensors()[1].tolist() == labels
        assert loaded.num_classes == 100


def test_an_archive_is_read_in_place_and_writes_nothing(tmp_path, rows):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    batch = _python_batch(rows, [1, 2, 3, 4])
    _archive(
        folder / "cifar-10-python.tar.gz",
        {
            "../escaped": b"no",
            "/etc/escaped": b"no",
            "cifar-10-batches-py/test_batch": batch,
            "cifar-10-batches-py/../../test_batch": b"no",
        },
    )
    before = sorted(tmp_path.rglob("*"))

    loaded = data.load("cifar10", root=tmp_path, split="test", download=False)

    assert loaded.tensors()[1].tolist() == [1, 2, 3, 4]
    assert "cifar-10-python.tar.gz" in loaded.notes[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_in_an_archive_is_not_followed(tmp_path):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as file:
        member = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        member.type = tarfile.SYMTYPE
        member.linkname = str(tmp_path / "secret")
        file.addfile(member)

    with pytest.raises(ValueError, match="it lacks test_batch"):
        data.load("cifar10", root=tmp_path, split="test", download=False)


@pytest.mark.parametrize("keep", [0, 30, 0.6])
def test_a_truncated_archive_is_refused(tmp_path, rows, keep):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    path = folder / "cifar-10-python.tar.gz"
    batch = _python_batch(rows, [1, 2, 3, 4])
    _archive(path, {"cifar-10-batches-py/test_batch": batch})
    content = path.read_bytes()
    length = int(keep * len(content)) if isinstance(keep, float) else keep
    path.write_bytes(content[:length])

    with pytest.raises(ValueError, match=r"hold a whole archive; got .*python.tar.gz"):
        data.load("cifar10", root=tmp_path, split="test", download=False)


def test_svhn_is_found(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    (tmp_path / "svhn").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 3), dtype=np.uint8)
    content = {"X": pixels, "y": np.array([[10], [1], [2]], np.uint8)}
    scipy_io.savemat(tmp_path / "svhn" / "train_32x32.mat", content)

    loaded = data.load("svhn", root=tmp_path, download=False, normalize="svhn")

    assert loaded.tensors()[1].tolist() == [0, 1, 2]
    expected = (pixels[4, 5, 2, 1] / 255 - 0.4728) / 0.1970
    assert loaded[1][0][2, 4, 5].item() == pytest.approx(expected, rel=1e-5)


def test_digits_are_embedded_and_the_splits_have_no_image_in_common():
    sklearn = pytest.importorskip("sklearn.datasets")
    bunch = sklearn.load_digits()

    train, test = (data.load("digits", split=split) for split in ("train", "test"))

    assert (len(train), len(test)) == (1500, 297)
    images = torch.cat([train.tensors()[0], test.tensors()[0]])
    np.testing.assert_array_equal(images[:, 0] * 16, bunch.images)
    labels = torch.cat([train.tensors()[1], test.tensors()[1]])
    np.testing.assert_array_equal(labels, bunch.target)
    assert images.min() == 0
    assert images.max() == 1
    assert torch.bincount(test.tensors()[1], minlength=10).min() >= 25
    assert train.official


def test_the_first_samples_are_those_of_the_split():
    pytest.importorskip("sklearn")
    whole, part = data.load("digits"), data.load("digits", num_samples=20)

    assert len(part) == 20
    assert torch.equal(part.tensors()[0], whole.tensors()[0][:20])
    assert list(iter(DataLoader(part, batch_size=8)))[2][0].shape == (4, 1, 8, 8)


def test_an_item_equals_its_row_of_the_whole():
    pytest.importorskip("sklearn")
    digits = data.load("digits", num_samples=5, normalize="half")
    images, labels = digits.tensors()

    for index in range(5):
        image, label = digits[index]
        assert torch.equal(image, images[index])
        assert label == labels[index]
    with pytest.raises(IndexError):
        digits[5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "imagenet"}, "`name` must be one of 'digits', 'mnist'"),
        ({"split": "valid"}, "`split` must be one of 'train', 'test'"),
        ({"num_samples": 1501}, "`num_samples` must be at most 1500, the size of dig"),
        ({"num_samples": 0}, "`num_samples` must be at least 1"),
        ({"normalize": "mean"}, "`normalize` must be one of 'none', 'half'"),
        ({"normalize": "cifar10"}, r"of 1 channel\(s\), as the images; got .* of 3"),
    ],
)
def test_a_wrong_option_has_one_clear_error(options, message):
    pytest.importorskip("sklearn")

    with pytest.raises(ValueError, match=message):
        data.load(**{"name": "digits", **options})


@pytest.mark.parametrize("package", ["sklearn", "pooch"])
def test_an_absent_package_is_named_with_its_extra(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "sklearn.datasets", raising=False)
    name = {"sklearn": "digits", "pooch": "mnist"}[package]

    with pytest.raises(MissingExtraError, match=rf"needs {package}: pip .*experiments"):
        data.load(name)


def test_files_that_are_there_need_no_downloader(monkeypatch, tmp_path, pixels):
    monkeypatch.setitem(sys.modules, "pooch", None)
    _write_mnist(tmp_path / "mnist", pixels)

    assert len(data.load("mnist", root=tmp_path)) == 6


def test_hashes_are_of_the_length_of_md5_and_all_different():
    from curvescope.data.catalog import CATALOG

    found = [
        md5
        for entry in CATALOG.values()
        for layout in entry.layouts[:2]
        for md5 in (*layout.hashes.values(), layout.archive_hash)
        if md5
    ]

    assert all(len(md5) == len(hashlib.md5(b"").hexdigest()) for md5 in found)
    assert len(set(found)) == len(found) >= 25
