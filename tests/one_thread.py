"""A fixture for one intra-op thread, as the workers have by default: a test may set another number.

A conftest imports it for the tests of its folder.
"""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
