"""What every test has: a fixed seed, a quiet backend, and no state left behind."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")

import torch
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent

settings.register_profile("curvescope", deadline=None, print_blob=True)
settings.load_profile("curvescope")


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(autouse=True)
def _global_state():
    """Seed torch's own generator, and catch a test that leaves a global changed."""
    torch.manual_seed(0)
    before = _globals()

    yield

    assert _globals() == before, "the test left a global setting of torch changed"


def _globals() -> tuple[object, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.fixture(params=_devices())
def device(request):
    """Every device there is."""
    return torch.device(request.param)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    """The two dtypes that products come in."""
    return request.param


@pytest.fixture
def generator():
    """A generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def data_root():
    """The folder of real data sets; a test that needs one skips without it."""
    default = REPOSITORY.parent / "shared" / "data"
    root = Path(os.environ.get("CURVESCOPE_TEST_DATA", default))
    if not root.is_dir():
        pytest.skip("no real data: set CURVESCOPE_TEST_DATA to the folder that has it")
    return root
