"""A classifier that the project never saw, protected by one command, its weights untouched.

    python -m benchmarks.foreign_classifier --folder .fend/foreign

Trains a small depthwise network on MNIST (ordinary training; `benchmarks/foreign_nets.py`), saves
its weights, and hands both to

    fend train mnist-online --classifier benchmarks.foreign_nets:depthwise --classifier-weights FILE

on a small budget: an 8-channel U-Net, 10,000 images, 6 epochs. Then audits the classifier alone
and behind its denoiser, white-box, on the same images, and compares the weights bit for bit.
Everything is kept in the folder; a stopped run goes on from there.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from benchmarks.foreign_nets import depthwise
from benchmarks.places import default_data_dir
from fend.attacks import APGD, FGSM, PGD, Gradient, Objective, Square
from fend.audit import AuditDocument, AuditSpec, Report
from fend.audit.report import Share
from fend.datasets import ImageSet, load
from fend.threat import Knowledge, ThreatModel
from training.evaluate import accuracy

FACTORY = "benchmarks.foreign_nets:depthwise"
BUDGET = (
    "data.limit=10000",
    "data.held_out=1000",
    "denoiser.config={ channels = 1, width = 8, scales = 2, fold = 2 }",
    "denoiser.epochs=6",
)
ATTACKS = (
    FGSM(),
    PGD(steps=100, random_start=False),
    APGD(steps=100),
    PGD(steps=100, objective=Objective(loss="feature_distance")),
    PGD(steps=100, gradient=Gradient(denoiser="identity")),
    APGD(steps=50, targets=9, objective=Objective(loss="dlr")),
    Square(queries=2_000),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(".fend/foreign"))
    parser.add_argument("--data-dir", type=Path, default=default_data_dir())
    parser.add_argument("--epochs", type=int, default=2, help="Of the classifier.")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--epsilon", type=float, default=0.2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="As `fend train` takes it.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    weights = options.folder / "depthwise.safetensors"
    if not weights.is_file():
        _train_classifier(load("mnist:train", options.data_dir), options.epochs, weights)
    models = options.folder / "models"
    alone, defended = models / "foreign-alone", models / "foreign-defended"
    # Without a denoiser there is nothing to train: a bundle of the classifier as it is.
    bare = ("mnist-unsecured", "name=foreign-alone")
    _fend_train(*bare, weights=weights, folder=options.folder, data_dir=options.data_dir)
    _fend_train(
        "mnist-online", "name=foreign-defended", *BUDGET, *options.set,
        weights=weights, folder=options.folder, data_dir=options.data_dir,
    )  # fmt: skip
    reports = [_audit(bundle, options) for bundle in (alone, defended)]
    print(table(*reports))
    print(f"\n{_untouched(weights, defended)}")


def table(alone: Report, defended: Report) -> str:
    """Markdown: a row an attack, the classifier alone and behind its denoiser."""
    rows = [
        [f"white-box, epsilon {alone.threat.epsilon:g}, {alone.identity.n} images",
         "classifier alone", "behind its denoiser"],
        ["---"] * 3,
        ["clean", _cell(alone.clean.defended), _cell(defended.clean.defended)],
    ]  # fmt: skip
    for one, other in zip(alone.lines, defended.lines, strict=True):
        rows.append([one.title, _cell(one.defended), _cell(other.defended)])
    worst = (alone.worst_case, defended.worst_case)
    rows.append(["**worst case per image**", *(f"**{_cell(share)}**" for share in worst)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    gain = 100 * (defended.worst_case.accuracy - alone.worst_case.accuracy)
    least = 100 * (defended.worst_case.low - alone.worst_case.high)
    lines += ["", f"Gain: {gain:.1f} points (at least {least:.1f} by both intervals)."]
    lines += [f"{name}: {report.verdict}" for name, report in
              (("Alone", alone), ("Behind the denoiser", defended))]  # fmt: skip
    return "\n".join(lines)


def _cell(share: Share) -> str:
    return f"{100 * share.accuracy:.1f} ({100 * share.low:.1f}-{100 * share.high:.1f})"


def _train_classifier(images: ImageSet, epochs: int, path: Path) -> None:
    """Cross-entropy on clean images, nothing else."""
    torch.manual_seed(0)
    network, batch = depthwise(), 128
    steps = epochs * -(-len(images) // batch)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps)
    for epoch in range(epochs):
        network.train()
        for indices in torch.randperm(len(images)).split(batch):
            loss = F.cross_entropy(network(images.pixels(indices)), images.labels[indices])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"classifier: epoch {epoch + 1} of {epochs}, loss {loss.item():.4f}", flush=True)
    print(f"classifier: {100 * accuracy(network.eval(), images):.2f} % of the training images")
    unfinished = path.with_suffix(".part")
    save_file(network.state_dict(), unfinished)
    unfinished.replace(path)


def _fend_train(recipe: str, *changes: str, weights: Path, folder: Path, data_dir: Path) -> None:
    command = [
        str(Path(sys.executable).parent / "fend"), "train", recipe, "--resume", "--threads", "1",
        "--classifier", FACTORY, "--classifier-weights", str(weights),
        "--models-dir", str(folder / "models"), "--runs-dir", str(folder / "runs"),
        "--data-dir", str(data_dir),
    ]  # fmt: skip
    for change in changes:
        command += ["--set", change]
    print("$ fend " + " ".join(command[1:]), flush=True)
    subprocess.run(command, check=True)


def _audit(bundle: Path, options: argparse.Namespace) -> Report:
    spec = AuditSpec(
        model=bundle.name,
        samples=options.samples,
        threat=ThreatModel(norm="linf", epsilon=options.epsilon),
        knowledge=(Knowledge.WHITE_BOX,),
        attacks=ATTACKS,
        cascade=True,  # each attack on what the ones before it left
        epsilons=(0.0, 0.5),
        sanity_samples=100,
        examples=0,
        shard_size=50,
    )
    request = options.folder / f"{bundle.name}.spec.json"
    request.write_text(spec.model_dump_json(exclude={"model"}))
    output = options.folder / f"{bundle.name}.report.json"
    subprocess.run(
        [
            str(Path(sys.executable).parent / "fend"), "audit", str(bundle), "--spec", str(request),
            "--data-dir", str(options.data_dir), "--workers", str(options.workers),
            "--output", str(output),
        ],
        check=True,
    )  # fmt: skip
    return AuditDocument.model_validate_json(output.read_bytes()).result


def _untouched(weights: Path, bundle: Path) -> str:
    before, after = load_file(weights), load_file(bundle / "classifier.safetensors")
    same = all(name in after and torch.equal(before[name], after[name]) for name in before)
    return (
        f"{len(before)} tensors of the classifier, bit for bit in the bundle: "
        f"{'all the same' if same else 'NOT THE SAME'}"
    )


if __name__ == "__main__":
    main()
