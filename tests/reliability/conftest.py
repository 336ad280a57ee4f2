"""The corpus of image files, for the tests beside it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def image_corpus() -> ModuleType:
    """The module beside this file that makes odd and hostile image files."""
    path = Path(__file__).with_name("image_corpus.py")
    spec = importlib.util.spec_from_file_location("image_corpus", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
