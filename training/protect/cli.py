"""`fend protect SOURCE --data FOLDER`: a denoiser in front of a classifier, in one command."""

import re
from pathlib import Path
from typing import Annotated

import typer

from fend.cli.folders import DATA_DIR, DataDir
from fend.errors import Invalid
from fend.files import check_folder
from training.cli import (
    SOURCE_HELP,
    Bgr,
    Changes,
    Device,
    Interpolation,
    Labels,
    Mean,
    Resize,
    Resume,
    Runs,
    Size,
    Std,
    Threads,
    ToModels,
    Weights,
    check_tensorboard,
    resolved,
    use_threads,
)


def protect(
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Images to learn from: class folders (or train and val with such), a CSV, parquet "
            "or npz file, or a data set of `fend data list` such as imagenette.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, help="About so long; default: 10 epochs of all images."),
    ] = None,
    let_classifier_learn: Annotated[
        bool,
        typer.Option(
            "--let-classifier-learn", help="Train the classifier further, too: it withstands more."
        ),
    ] = False,
    identity: Annotated[
        bool,
        typer.Option(
            "--identity", help="With a denoiser that does nothing; needs no data and no training."
        ),
    ] = False,
    name: Annotated[str | None, typer.Option(help="Of the bundle; default: the source's.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Pass over files that are no pictures.")
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="In miniature: a few of the images, one epoch.")
    ] = False,
    resume: Resume = False,
    weights: Weights = None,
    labels: Labels = None,
    size: Size = None,
    resize: Resize = None,
    interpolation: Interpolation = None,
    mean: Mean = None,
    std: Std = None,
    bgr: Bgr = None,
    changes: Changes = None,
    data_dir: DataDir = DATA_DIR,
    models_dir: ToModels = Path("models"),
    runs_dir: Runs = Path("runs"),
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Train a denoiser in front of the classifier of SOURCE, say what it brought, and export both
    as a bundle. The classifier stays as it is."""
    if data is None and not identity:
        raise Invalid(
            "--data: name a folder of images to learn from; or --identity, for a bundle whose "
            "denoiser does nothing",
            code="recipe_invalid",
        )
    for flag, folder in (("--models-dir", models_dir), ("--runs-dir", runs_dir)):
        check_folder(flag, folder)
    if not identity:
        check_tensorboard("protect")
    use_threads(threads)
    from training.classifiers import classifier_of, said_by_user
    from training.classifiers.sources import is_bundle
    from training.protect.data import data_specs
    from training.protect.recipe import Choice
    from training.protect.run import Places, identity_bundle
    from training.protect.run import protect as run

    specs = None if data is None else data_specs(data)
    said = said_by_user(
        labels=labels, size=size, resize=resize, interpolation=interpolation,
        mean=mean, std=std, bgr=bgr,
    )  # fmt: skip
    file = None if weights is None else Path(weights)
    classifier = classifier_of(source, weights=file, said=said)
    name = name or _name(source) + ("-learnt" if let_classifier_learn else "")
    if specs is None:
        folder = models_dir / name
        manifest = identity_bundle(folder, name, classifier)
        typer.echo(f"bundle {folder}  {manifest.version}")
        return
    about = {
        "from_bundle" if is_bundle(source) else "factory": source,
        "weights": weights, "labels": labels and str(labels), "bgr": said.bgr,
        "mean": said.mean and list(said.mean), "std": said.std and list(said.std),
    }  # fmt: skip
    run(
        Choice(
            name=name + ("-smoke" if smoke else ""),
            classifier={key: value for key, value in about.items() if value is not None},
            train=specs[0],
            test=specs[1],
            learns=let_classifier_learn,
            identity=identity,
            smoke=smoke,
            skip_bad=skip_bad,
        ),
        classifier,
        Places(data_dir, models_dir, runs_dir, resolved(device)),
        minutes=minutes,
        changes=changes or [],
        resume=resume,
    )


def _name(source: str) -> str:
    """Of a bundle: what the source calls the classifier."""
    own = Path(source.split(":")[-1])
    stem = own.stem if own.suffix.lower() in (".onnx", ".pt2") else own.name
    return re.sub(r"[^a-z0-9._-]", "-", stem.lower()).lstrip("._-")[:50] or "protected"
