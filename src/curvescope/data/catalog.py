"""The data sets that have names: their files, hashes, origins and formats."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from curvescope.data import formats
from curvescope.data.formats import Bytes, Labels

SPLITS = ("train", "test")
Reader = Callable[[list[tuple[bytes, str]]], tuple[Bytes, Labels]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One form in which a set lies in its folder.

    Attributes:
        files: Names of the files, by split.
        read: From the contents and origins of a split's files to images and labels.
        hashes: The published md5 of each file, where it is known.
        folders: Where the files may lie, below the set's folder.
        archive: An archive that holds the files, if there is one.
        archive_hash: The published md5 of the archive.
        archive_folder: The folder of the files inside the archive.
        parts: Whether each file is a part that is of use without the others.
    """

    files: Mapping[str, tuple[str, ...]]
    read: Reader
    hashes: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ("",)
    archive: str | None = None
    archive_hash: str = ""
    archive_folder: str = ""
    parts: bool = False


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A set that has a name.

    Attributes:
        name: The name.
        num_classes: Number of classes.
        sizes: Images of the whole split, by split.
        layouts: The forms that are looked for, in this order.
        mirrors: Folders on the web, tried in this order.
        downloads: By split, the files to download, with their md5.
    """

    name: str
    num_classes: int
    sizes: Mapping[str, int]
    layouts: tuple[Layout, ...]
    mirrors: tuple[str, ...]
    downloads: Mapping[str, Mapping[str, str]]


def _idx_pair(files: list[tuple[bytes, str]]) -> tuple[Bytes, Labels]:
    images, labels = (formats.read_idx(*file) for file in files)
    contract = "hold images and as many labels"
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        reason = f"images {images.shape}, labels {labels.shape}"
        raise formats.broken(files[0][1], contract, reason)
    if len(labels) and labels.max() > 9:
        reason = f"a label {labels.max()}, where there are 10 classes"
        raise formats.broken(files[1][1], contract, reason)
    return images[:, None], labels.astype("int64")


def _batches(
    files: list[tuple[bytes, str]],
    *,
    reader: Callable[..., tuple[Bytes, Labels]],
) -> tuple[Bytes, Labels]:
    return formats.joined([reader(content, origin) for content, origin in files])


def _idx_names(form: str) -> dict[str, tuple[str, ...]]:
    kinds = (("images", 3), ("labels", 1))
    return {
        split: tuple(form.format(stem=stem, kind=kind, n=n) for kind, n in kinds)
        for split, stem in (("train", "train"), ("test", "t10k"))
    }


def _idx_entry(
    name: str, mirrors: tuple[str, ...], packed: list[str], plain: list[str]
) -> Entry:
    """Describe a set of the MNIST family; hashes in the order of the files."""
    layouts = []
    for form, md5 in (
        ("{stem}-{kind}-idx{n}-ubyte.gz", packed),
        ("{stem}-{kind}-idx{n}-ubyte", plain),
        ("{stem}-{kind}.idx{n}-ubyte", plain),
    ):
        names = _idx_names(form)
        layouts.append(
            Layout(
                files=names,
                read=_idx_pair,
                hashes=dict(
                    zip(names["train"] + names["test"], md5, strict=True),
                ),
                folders=("", "raw"),
            )
        )
    first = layouts[0]
    return Entry(
        name=name,
        num_classes=10,
        sizes={"train": 60_000, "test": 10_000},
        layouts=tuple(layouts),
        mirrors=mirrors,
        downloads={
            split: {file: first.hashes[file] for file in first.files[split]}
            for split in SPLITS
        },
    )


_MNIST = _idx_entry(
    "mnist",
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    [
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ],
    [
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ],
)
_FASHION = _idx_entry(
    "fashion-mnist",
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    [
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ],
    [
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ],
)

_TORONTO = (
    "https://www.cs.toronto.edu/~kriz/",
    "https://cave.cs.toronto.edu/kriz/",
)
_CIFAR10_MD5 = "c58f30108f718f92721af3b95e74349a"
_CIFAR10 = Entry(
    name="cifar10",
    num_classes=10,
    sizes={"train": 50_000, "test": 10_000},
    layouts=(
        Layout(
            files={
                "train": tuple(f"data_batch_{index}" for index in range(1, 6)),
                "test": ("test_batch",),
            },
            read=partial(
                _batches,
                reader=partial(
                    formats.read_cifar_python, label_key="labels", num_classes=10
                ),
            ),
            hashes={
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                "test_batch": "40351d587109b95175f43aff81a1287e",
            },
            folders=("cifar-10-batches-py", ""),
            archive="cifar-10-python.tar.gz",
            archive_hash=_CIFAR10_MD5,
            archive_folder="cifar-10-batches-py",
            parts=True,
        ),
        Layout(
            files={
                "train": tuple(f"data_batch_{index}.bin" for index in range(1, 6)),
                "test": ("test_batch.bin",),
            },
            read=partial(
                _batches,
                reader=partial(formats.read_cifar_binary, num_labels=1, num_classes=10),
            ),
            folders=("cifar-10-batches-bin", ""),
            archive="cifar-10-binary.tar.gz",
            archive_hash="c32a1d4ab5d03f1284b67883e8d87530",
            archive_folder="cifar-10-batches-bin",
            parts=True,
        ),
    ),
    mirrors=_TORONTO,
    downloads={split: {"cifar-10-python.tar.gz": _CIFAR10_MD5} for split in SPLITS},
)

_CIFAR100_MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
_CIFAR100 = Entry(
    name="cifar100",
    num_classes=100,
    sizes={"train": 50_000, "test": 10_000},
    layouts=(
        Layout(
            files={"train": ("train",), "test": ("test",)},
            read=partial(
                _batches,
                reader=partial(
                    formats.read_cifar_python, label_key="fine_labels", num_classes=100
                ),
            ),
            hashes={
                "train": "16019d7e3df5f24257cddd939b257f8d",
                "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            },
            folders=("cifar-100-python", ""),
            archive="cifar-100-python.tar.gz",
            archive_hash=_CIFAR100_MD5,
            archive_folder="cifar-100-python",
        ),
        Layout(
            files={"train": ("train.bin",), "test": ("test.bin",)},
            read=partial(
                _batches,
                reader=partial(
                    formats.read_cifar_binary, num_labels=2, num_classes=100
                ),
            ),
            folders=("cifar-100-binary", ""),
            archive="cifar-100-binary.tar.gz",
            archive_hash="03b5dce01913d631647c71ecec9e9cb8",
            archive_folder="cifar-100-binary",
        ),
    ),
    mirrors=_TORONTO,
    downloads={split: {"cifar-100-python.tar.gz": _CIFAR100_MD5} for split in SPLITS},
)

_SVHN_MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
_SVHN = Entry(
    name="svhn",
    num_classes=10,
    sizes={"train": 73_257, "test": 26_032},
    layouts=(
        Layout(
            files={split: (f"{split}_32x32.mat",) for split in SPLITS},
            read=partial(_batches, reader=formats.read_svhn),
            hashes=_SVHN_MD5,
        ),
    ),
    mirrors=("http://ufldl.stanford.edu/housenumbers/",),
    downloads={
        split: {f"{split}_32x32.mat": _SVHN_MD5[f"{split}_32x32.mat"]}
        for split in SPLITS
    },
)

CATALOG = {
    entry.name: entry for entry in (_MNIST, _FASHION, _CIFAR10, _CIFAR100, _SVHN)
}
