"""A sandbox for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deepseek_nb.sandbox import Sandbox


@pytest.fixture
def make() -> Iterator[Callable[..., Sandbox]]:
    """Make running sandboxes that stop with the test."""
    made: list[Sandbox] = []

    def start(**options: Any) -> Sandbox:
        sandbox = Sandbox(**options).start()
        made.append(sandbox)
        return sandbox

    yield start
    for sandbox in made:
        sandbox.stop()


@pytest.fixture
def sandbox(make: Callable[..., Sandbox]) -> Sandbox:
    """A plain sandbox."""
    return make()
