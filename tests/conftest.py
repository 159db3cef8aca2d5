"""What all tests share: one thread, for tiny models lose time to more, and the same random numbers every time."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_random_numbers():
    torch.manual_seed(0)
