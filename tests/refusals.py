"""Errors by their code, for `pytest.raises(..., check=code("..."))`."""

from collections.abc import Callable

from fend.errors import FendError


def code(name: str) -> Callable[[FendError], bool]:
    """A check that the error has this code."""
    return lambda error: error.code == name
