"""Networks from import paths, files and hubs."""

import sys
import types

import pytest
import torch
from torch import nn

from curvescope import models
from curvescope._core.errors import MissingExtraError


@pytest.fixture
def nets(tmp_path):
    (tmp_path / "beside.py").write_text("WIDTH = 5\n")
    path = tmp_path / "nets.py"
    path.write_text(
        "from torch import nn\n"
        "from beside import WIDTH\n"
        "def build(num_classes=2):\n"
        "    return nn.Linear(WIDTH, num_classes)\n"
        "def broken():\n"
        "    raise RuntimeError('no luck')\n"
        "def number():\n"
        "    return 3\n"
        "ready = nn.Linear(1, 1)\n"
        "constant = 3\n"
    )
    yield path
    sys.modules.pop("beside", None)


def test_a_file_may_import_what_lies_beside_it(nets):
    path_before = list(sys.path)

    net = models.resolve(f"{nets}:build", num_classes=4)

    assert net.weight.shape == (4, 5)
    assert sys.path == path_before


def test_a_ready_network_is_returned_as_it_is(nets):
    a, b = (models.resolve(f"{nets}:ready") for _ in range(2))

    assert a is b
    with pytest.raises(ValueError, match="is a ready network"):
        models.resolve(f"{nets}:ready", width=3)


def test_a_module_of_a_package_and_a_nested_attribute_are_found():
    net = models.resolve("torch:nn.Linear", in_features=2, out_features=3)

    assert net.weight.shape == (3, 2)


def test_a_module_in_the_working_directory_is_found(nets, monkeypatch):
    monkeypatch.chdir(nets.parent)

    assert isinstance(models.resolve("nets:build"), nn.Linear)
    sys.modules.pop("nets")


def test_a_built_in_name_is_built(generator):
    a = models.resolve("mlp", generator=generator, hidden=(3,))

    assert a.linear1.weight.shape == (3, 64)


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("{nets}:absent", ValueError, r"'absent'\. It has: .*build"),
        ("{nets}:number", TypeError, "returns an nn.Module .*; got int"),
        ("{nets}:constant", TypeError, "must name something callable; got int"),
        ("{nets}:broken", ValueError, "does not raise .*RuntimeError: no luck"),
        ("gone.py:build", FileNotFoundError, "existing Python file; got gone.py"),
        ("no.such.module:build", ValueError, "There is no module 'no'"),
        ("torch.nothing:build", ValueError, "There is no module 'torch.nothing'"),
        ("resnet21", ValueError, r"`model` must be one of mlp, .*got 'resnet21'"),
    ],
)
def test_each_wrong_spec_has_one_clear_error(nets, spec, kind, message):
    with pytest.raises(kind, match=message):
        models.resolve(spec.format(nets=nets))


def test_an_argument_that_the_callable_does_not_take_is_named(nets):
    with pytest.raises(ValueError, match=r"takes the given arguments; got .*depth"):
        models.resolve(f"{nets}:build", depth=3)


def test_a_file_that_fails_to_import_is_said_to(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("import json\n1 / 0\n")

    with pytest.raises(ValueError, match=r"can be imported .*ZeroDivisionError"):
        models.resolve(f"{path}:build")
    path.write_text("import torch.no_such_part\n")
    with pytest.raises(ValueError, match=r"can be imported .*torch.no_such_part"):
        models.resolve(f"{path}:build")


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "net.py"
    text = "from torch import nn\ndef build():\n    return nn.Linear(1, {})\n"
    widths = []
    for width in (2, 3):
        path.write_text(text.format(width))
        widths.append(models.resolve(f"{path}:build").out_features)

    assert widths == [2, 3]


@pytest.mark.parametrize("package", ["timm", "transformers"])
def test_a_hub_whose_package_is_absent_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    spec = {"timm": "timm:resnet18", "transformers": "hf:some/where"}[package]

    with pytest.raises(MissingExtraError, match=f"pip install .*{package}"):
        models.resolve(spec)


def test_timm_is_asked_for_the_name_with_the_arguments(monkeypatch):
    asked = []

    def create_model(name, **arguments):
        asked.append((name, arguments))
        if name != "resnet18":
            raise RuntimeError("Unknown model")
        return nn.Linear(1, 1)

    monkeypatch.setitem(
        sys.modules, "timm", types.SimpleNamespace(create_model=create_model)
    )

    assert isinstance(models.resolve("timm:resnet18", num_classes=3), nn.Linear)
    assert asked == [("resnet18", {"num_classes": 3})]
    with pytest.raises(ValueError, match=r"timm can create; got 'x' .*Unknown model"):
        models.resolve("timm:x")


def test_hugging_face_models_are_of_the_class_that_their_config_declares(monkeypatch):
    class Net(nn.Linear):
        @classmethod
        def from_pretrained(cls, path):
            return cls(1, 1)

    class AutoConfig:
        @staticmethod
        def from_pretrained(path):
            return types.SimpleNamespace(architectures=["Net"])

    fake = types.SimpleNamespace(AutoConfig=AutoConfig, Net=Net)
    monkeypatch.setitem(sys.modules, "transformers", fake)

    assert type(models.resolve("hf:some/where")) is Net


def test_random_weights_from_a_file_follow_the_generator(nets):
    models.resolve(f"{nets}:build")  # the import itself draws, as the file says
    state = torch.get_rng_state()
    a, b = (
        models.resolve(f"{nets}:build", generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )

    assert torch.equal(a.weight, b.weight)
    assert torch.equal(torch.get_rng_state(), state)
