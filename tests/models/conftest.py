"""Our networks never lose the octave on the way: a function that would merge a value fails."""

from collections.abc import Iterator

import pytest

from octvideo.layers import strict


@pytest.fixture(autouse=True)
def _strict() -> Iterator[None]:
    with strict():
        yield
