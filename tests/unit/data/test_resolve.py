"""Data from what stands on a command line."""

import json

import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from curvescope import data


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mydata.py"
    path.write_text(
        "import torch\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "ready = TensorDataset(torch.arange(6.0), torch.arange(6))\n"
        "def plain():\n"
        "    return ready\n"
        "def rich(root=None, split='train', num_samples=4):\n"
        "    count = num_samples + (split == 'test')\n"
        "    return TensorDataset(torch.arange(float(count)))\n"
        "def loader():\n"
        "    return DataLoader(ready, batch_size=2)\n"
        "def batches():\n"
        "    return [(torch.ones(2, 3), torch.ones(2))]\n"
        "def nothing():\n"
        "    return None\n"
    )
    return path


def test_a_callable_gets_the_options_it_has_parameters_for(file):
    assert len(data.resolve(f"{file}:rich")) == 4
    assert len(data.resolve(f"{file}:rich", split="test", num_samples=2)) == 3


def test_loaders_batches_and_ready_data_are_returned_as_they_are(file):
    assert isinstance(data.resolve(f"{file}:loader"), DataLoader)
    assert isinstance(data.resolve(f"{file}:batches"), list)
    assert isinstance(data.resolve(f"{file}:ready"), TensorDataset)


@pytest.mark.parametrize("attribute", ["plain", "ready"])
def test_the_first_samples_of_a_users_dataset_are_a_subset(file, attribute):
    part = data.resolve(f"{file}:{attribute}", num_samples=2)

    assert isinstance(part, Subset)
    assert [int(label) for _, label in part] == [0, 1]
    with pytest.raises(ValueError, match="`num_samples` must be at most 6"):
        data.resolve(f"{file}:{attribute}", num_samples=7)


@pytest.mark.parametrize(
    ("spec", "options", "kind", "message"),
    [
        ("{file}:plain", {"split": "test"}, ValueError, "`split` must not be given"),
        ("{file}:loader", {"num_samples": 2}, ValueError, "`num_samples` must not be"),
        ("{file}:nothing", {}, TypeError, "must name data: .*got NoneType"),
        ("{file}:absent", {}, ValueError, "`data` must name an attribute"),
        ("gone.py:x", {}, FileNotFoundError, "`data` must name an existing Python"),
        ("cifar11", {}, ValueError, "`data` must be one of digits, mnist"),
        ("digits", {"vocab": "v.json"}, ValueError, "`vocab` must not be given here"),
        ("text:t.txt", {"split": "test"}, ValueError, "`split` must not be given"),
        ("text:gone.txt", {}, FileNotFoundError, "existing file; got gone.txt"),
    ],
)
def test_each_wrong_spec_or_option_has_one_clear_error(
    file, spec, options, kind, message
):
    with pytest.raises(kind, match=message):
        data.resolve(spec.format(file=file), **options)


def test_a_name_is_loaded_with_its_options():
    pytest.importorskip("sklearn")

    digits = data.resolve("digits", split="test", num_samples=3, normalize="half")

    assert torch.equal(
        digits.tensors()[0],
        data.load("digits", split="test", num_samples=3, normalize="half").tensors()[0],
    )


def test_a_text_is_read_with_its_vocabulary(tmp_path):
    (tmp_path / "t.txt").write_text("abcabc")
    (tmp_path / "v.json").write_text(json.dumps({"a": 5, "b": 6}))

    windows = data.resolve(
        f"text:{tmp_path / 't.txt'}",
        vocab=tmp_path / "v.json",
        context=1,
        num_samples=2,
    )

    assert [pair[0].tolist() for pair in windows] == [[5], [5]]


def test_a_function_of_the_package_is_data_too():
    spirals = data.resolve("curvescope.data.synthetic:two_spirals", num_samples=7)

    assert len(spirals) == 7
