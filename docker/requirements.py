"""Write what an image installs before the source is copied in, from pyproject.toml alone.

    requirements.py OUT_DIR TORCH [EXTRA ...]

OUT_DIR/requirements.txt holds the project's dependencies, with TORCH in the place of its torch.
OUT_DIR/constraints.txt holds constraints.txt, if there is one. A TORCH that names one build
(`torch==2.15.0+cpu`) wins: the pins that belong to another build of torch are left out.
"""

import re
import sys
import tomllib
from pathlib import Path

# torch, torchvision, and what only some builds of torch depend on
TORCH_FAMILY = re.compile(r"(torch|triton|nvidia|cuda)", re.IGNORECASE)


def requirements(pyproject: str, torch: str, extras: list[str]) -> list[str]:
    """The dependencies of the project and of these extras, with `torch` as the torch to install."""
    project = tomllib.loads(pyproject)["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += lines_of(project["optional-dependencies"], extra)
    return [torch, *(line for line in lines if re.split(r"[^\w.-]", line)[0].lower() != "torch")]


def lines_of(extras: dict[str, list[str]], extra: str) -> list[str]:
    """What an extra asks for; an extra of ours that it names stands for what that asks for."""
    lines = []
    for line in extras[extra]:
        ours = re.fullmatch(r"fend\[(.+)\]", line)
        named = ours[1].split(",") if ours else []
        lines += [inner for name in named for inner in lines_of(extras, name)] or [line]
    return lines


def constraints(pins: str, torch: str) -> list[str]:
    """The pins to keep beside `torch`."""
    exact = "==" in torch or "@" in torch
    return [line for line in pins.splitlines() if not (exact and TORCH_FAMILY.match(line))]


def main() -> None:
    out, torch, *extras = sys.argv[1:]
    pins = Path("constraints.txt")
    wanted = requirements(Path("pyproject.toml").read_text(), torch, extras)
    kept = constraints(pins.read_text() if pins.exists() else "", torch)
    Path(out, "requirements.txt").write_text("\n".join(wanted) + "\n")
    Path(out, "constraints.txt").write_text("\n".join(kept) + "\n")


if __name__ == "__main__":
    main()
