"""What is installed where there is no checkout: the wheel, alone and with its extras."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name[:5] != "FEND_"}


def run(*command: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env=ENVIRONMENT | variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def build(hook: str, source: Path, out: Path) -> Path:
    """What setuptools' hook makes of `source`."""
    code = f"import sys; from setuptools import build_meta; build_meta.{hook}(sys.argv[1])"
    done = run(sys.executable, "-c", code, out, cwd=source)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged: a build writes beside it."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("fend", "service", "training", "models/mnist"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("build_wheel", source, tmp_path_factory.mktemp("wheel"))


def test_the_sdist_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    packed = build("build_sdist", source, tmp_path / "sdist")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.glob("fend-*")
    again = build("build_wheel", unpacked, tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        files = {info.filename: info.CRC for info in one.infolist()}
        assert files == {info.filename: info.CRC for info in other.infolist()}
    assert "fend/shipped/mnist/manifest.json" in files
    assert not [name for name in files if name.startswith(("reproduction", "tests"))]


def needed(name: str, extras: set[str], found: set[str]) -> None:
    """Add a distribution, and what it needs with `extras`, to `found`."""
    found.add(name)
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            continue
        if requirement.name not in found or requirement.extras:
            needed(requirement.name, set(requirement.extras), found)


def install(wheel: Path, place: Path, *extras: str) -> Path:
    """A new environment with the wheel and what it needs, linked from this one; its `bin`."""
    venv.create(place, with_pip=False)
    options = ("install", "-q", "--no-deps", "--no-index", wheel)
    done = run(sys.executable, "-m", "pip", "--python", place / "bin/python", *options, cwd=place)
    assert done.returncode == 0, done.stderr
    (packages,) = place.glob("lib/python*/site-packages")
    names: set[str] = set()
    needed("fend", set(extras), names)
    for name in names - {"fend"}:
        for file in distribution(name).files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    return place / "bin"


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def serve(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("serve"), "serve")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def server(serve, empty, run_server) -> Iterator[Any]:
    """`fend serve` in an empty folder."""
    command = (serve / "fend", "serve")
    with run_server(None, None, command=command, cwd=empty, worker_priority="normal") as live:
        yield live


@pytest.fixture
def picture(empty: Path, digit_pngs: list[tuple[bytes, str]]) -> Path:
    file = empty / "digit.png"
    file.write_bytes(digit_pngs[0][0])
    return file


def test_the_wheel_serves_and_classifies_in_an_empty_folder(serve, server, empty, picture):
    said = ""
    while "state" not in said:
        said += server.lines.get(timeout=60)
    assert "fend/shipped" in said
    assert ".fend/state" in said
    assert (empty / ".fend/state").is_dir()
    sent = httpx.post(f"{server.base_url}/v1/classify", files={"file": picture.read_bytes()})
    done = run(serve / "fend", "classify", picture.name, "--json", cwd=empty)
    assert done.returncode == 0, done.stderr
    here = json.loads(done.stdout)
    assert here.pop("file") == picture.name
    assert here["label"] == sent.json()["label"]
    assert here["model"] == sent.json()["model"]
    (empty / "models").mkdir()
    try:  # ./models comes before what was installed
        done = run(serve / "fend", "classify", picture.name, cwd=empty)
        assert "[bundle_missing]" in done.stderr
    finally:
        (empty / "models").rmdir()


def test_the_base_install_talks_to_it_without_torch(base, server, empty, picture):
    def fend(*arguments: str | Path) -> str:
        done = run(base / "fend", *arguments, cwd=empty, FEND_ADMIN_TOKEN=server.token)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(base / "python", "-c", "import torch", cwd=empty).returncode == 1
    assert fend("--version") == "0.1.0\n"
    assert len(fend("key").split()) == 2
    answer = json.loads(fend("classify", picture.name, "--json", "--url", server.base_url))
    assert answer["model"]["name"] == "mnist"
    spec = {"attacks": [{"name": "fgsm"}], "knowledge": ["white_box"], "sanity_samples": 0}
    (empty / "spec.json").write_text(json.dumps(spec))
    asked = ("--dataset", "rendered-digits", "--samples", "2", "--spec", "spec.json")
    there = ("--url", server.base_url, "--output", "report.html", "--format", "json")
    (empty / "report.json").write_text(fend("audit", "mnist", *asked, *there))
    assert "<html" in (empty / "report.html").read_text()
    fend("audit", "diff", "report.json", "report.json")
    for path in ("report.json", "report.html", "spec.json"):
        (empty / path).unlink()


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("serve", "serve"),
        ("classify digit.png", "serve"),
        ("audit mnist", "serve"),
        ("bundle list", "serve"),
        ("data list", "serve"),
        ("train mnist", "train"),
        ("protect mine:net --identity", "train"),
    ],
)
def test_a_command_names_the_extra_that_it_needs(base, tmp_path, command, extra):
    done = run(base / "fend", *command.split(), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith(f"pip install 'fend[{extra}]'\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "audit", "audit run", "audit diff", "audit self-test", "bundle", "bundle add", "data",
        "data fetch", "classify", "key", "train", "protect",
    ],
)  # fmt: skip
def test_help_needs_no_torch(base: Path, tmp_path: Path, command: str) -> None:
    done = run(base / "fend", *command.split(), "-h", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"Usage: fend {command}".strip() in done.stdout


def test_without_arguments_it_shows_its_help(base: Path, tmp_path: Path) -> None:
    plain, long = (run(base / "fend", *flags, cwd=tmp_path) for flags in ((), ("--help",)))
    assert plain.returncode == 0
    assert plain.stdout == long.stdout
    own = ("audit", "bundle", "classify", "data")
    for command in (*own, "key", "protect", "reproduce", "serve", "train"):
        assert f"│ {command} " in plain.stdout


def test_mypy_finds_the_client_of_the_editable_install(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        'from fend.client import Client\n\nreveal_type(Client("http://x").classify("7.png").label)\n'
    )
    # The configuration and the cache of `make check`: a new one takes 20 s.
    options = ("--config-file", ROOT / "pyproject.toml", "--cache-dir", ROOT / ".mypy_cache")
    done = run(sys.executable, "-m", "mypy", *options, program.name, cwd=tmp_path)
    assert 'Revealed type is "str"' in done.stdout.replace("builtins.", ""), done.stdout
    assert "Success" in done.stdout


def test_make_installs_torch_for_the_cpu_when_told(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    given = ("TORCH=cpu", "FEND_TORCH_INDEX=https://builds.example/cpu")
    index = "--extra-index-url https://builds.example/cpu"
    for target, extra in (("serve", "serve"), ("test", "dev")):
        plain, cpu = (run("make", "-n", target, *t, cwd=tmp_path) for t in ((), given))
        assert f"-e '.[{extra}]'" in plain.stdout
        assert index not in plain.stdout
        assert re.search(rf"pip install .*{index} .*-e '\.\[{extra}\]'", cpu.stdout)
    lacking = run("make", "-n", "serve", "TORCH=cpu", cwd=tmp_path)
    assert lacking.returncode == 2
    assert "FEND_TORCH_INDEX: pytorch.org/get-started" in lacking.stderr
    other = run("make", "-n", "serve", "TORCH=gpu", cwd=tmp_path)
    assert other.returncode == 2
    assert "TORCH may be cpu" in other.stderr
