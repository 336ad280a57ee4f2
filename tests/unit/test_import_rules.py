"""Arrows go one way: fend knows nobody, training and service know fend, nothing else."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "fend": {"training", "service", "fastapi", "starlette", "uvicorn", "prometheus_client"},
    "training": {"service", "fastapi", "starlette", "uvicorn"},
    "service": {"training", "torchvision"},
}


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_forbidden_import(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    broken = {
        str(file.relative_to(ROOT)): sorted(found)
        for file in files
        if (found := _imports(file) & FORBIDDEN[package])
    }
    assert broken == {}


def test_the_service_loads_without_torchvision_and_training() -> None:
    program = (
        "import sys, service.app; "
        "print(sorted({'torchvision', 'training'} & {m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_library_reads_no_clock_and_no_environment() -> None:
    """Settings and time belong to the programs; cli modules are programs."""
    asks = re.compile(r"os\.environ|getenv|\.now\(|time\.time\(|monotonic\(|perf_counter\(")
    readers = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "fend").rglob("*.py")
        if not file.stem.endswith("cli") and asks.search(file.read_text())
    }
    assert readers == set()
