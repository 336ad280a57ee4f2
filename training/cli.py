"""`fend train RECIPE`: the whole training pipeline in one command."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fend.cli.folders import DATA_DIR, DataDir
from fend.errors import extra_missing
from fend.files import check_folder

if TYPE_CHECKING:
    import torch

SOURCE_HELP = (
    "torchvision:NAME, timm:NAME, hf:NAME or hf:FOLDER, FILE.onnx, FILE.pt2, "
    "package.module:function that makes a torch.nn.Module, or the folder of a bundle."
)
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Its weights, safetensors or torch.save's; default: those that the source has.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        help="Its labels, a file with one a line, or `imagenet`; default: what the source says."
    ),
]
Size = Annotated[
    str | None, typer.Option(help="Of the images it takes: 224, or 224x320 (height x width).")
]
Resize = Annotated[
    str | None, typer.Option(help="How images get that size: fit, stretch, crop or crop:256.")
]
Interpolation = Annotated[
    str | None, typer.Option(help="nearest, box, bilinear, bicubic or lanczos.")
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,C",
        help="That it takes off each channel, in [0, 1], or in 0..255 where one is above 1.",
    ),
]
Std = Annotated[
    str | None, typer.Option(metavar="A,B,C", help="By which it divides then; as --mean.")
]
Bgr = Annotated[bool | None, typer.Option("--bgr/--rgb", help="Whether it takes blue first.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a key, such as data.limit=1000. Repeatable."
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue from the last checkpoint of this recipe.")
]
ToModels = Annotated[Path, typer.Option(help="Folder that the bundle is written to.")]
Runs = Annotated[Path, typer.Option(help="Folder of checkpoints and TensorBoard files.")]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")]


def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe by name, or a TOML file.")],
    profile: Annotated[
        str, typer.Option(help="A budget of the recipe: full, or a name under its [profiles].")
    ] = "full",
    changes: Changes = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed in place of the recipe's; it is added to the name."),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help=f"Protect this classifier as it is: {SOURCE_HELP}",
        ),
    ] = None,
    classifier_weights: Weights = None,
    labels: Labels = None,
    size: Size = None,
    resize: Resize = None,
    interpolation: Interpolation = None,
    mean: Mean = None,
    std: Std = None,
    bgr: Bgr = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Train in miniature, on typeset digits; needs no data.")
    ] = False,
    resume: Resume = False,
    cut: Annotated[
        bool,
        typer.Option(
            "--cut", help="Export the best checkpoint so far instead of training further."
        ),
    ] = False,
    data_dir: DataDir = DATA_DIR,
    models_dir: ToModels = Path("models"),
    runs_dir: Runs = Path("runs"),
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Train a classifier and a denoiser by RECIPE and export them as a bundle."""
    use_threads(threads)
    from rich.console import Console

    from training.classifiers.foreign import said_by_source
    from training.classifiers.said import said_by_user
    from training.line import run_recipe
    from training.recipe.files import foreign_changes, load_recipe
    from training.recipe.smaller import smoke as smoke_recipe

    said = said_by_user(
        labels=labels, size=size, resize=resize, interpolation=interpolation,
        mean=mean, std=std, bgr=bgr,
    )  # fmt: skip
    if classifier is not None:
        weights = None if classifier_weights is None else Path(classifier_weights)
        said = said_by_source(classifier, weights, said)
    file = None if labels is None else str(labels)
    taken = foreign_changes(recipe, classifier, classifier_weights, file, said)
    chosen = load_recipe(recipe, profile=profile, changes=[*taken, *(changes or [])], seed=seed)
    check_tensorboard("train")
    if smoke:
        chosen = smoke_recipe(chosen)
    check_folder("--models-dir", models_dir)
    check_folder("--runs-dir", runs_dir)
    run_recipe(
        chosen,
        data_dir=data_dir,
        bundle_dir=models_dir / chosen.name,
        runs_dir=runs_dir,
        resume=resume,
        cut=cut,
        device=resolved(device),
        console=Console(),
    )


def check_tensorboard(command: str) -> None:
    """Raises Unavailable (`dependency_missing`) now, and not after the first minutes of work."""
    if find_spec("tensorboard") is None:
        raise extra_missing(f"`fend {command}` needs tensorboard", "train")


def use_threads(threads: int) -> None:
    """Let torch, which is imported here, compute on so many; 0 leaves it to torch."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    if threads:
        torch.set_num_threads(threads)


def resolved(device: str) -> "torch.device":
    """The device that the flag names."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
