"""What the frameworks' tests compare: states of training, to the last bit."""

import random

import numpy as np
import torch


def random_states():
    """Return the global random streams."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002


def same_random_states(one, other):
    """Tell whether two looks at the streams saw the same."""
    torch_same = torch.equal(one[0], other[0])
    arrays_same = np.array_equal(one[2][1], other[2][1])
    return torch_same and one[1] == other[1] and arrays_same


def seed_everything(seed):
    """Seed all global streams."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def assert_same_tensors(one, other):
    """Check that two state dictionaries hold the same bits."""
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), f"{name} differs"
