"""A classifier that the project never saw, protected by one command, its weights untouched.

    python -m benchmarks.foreign_classifier --net mlp

Trains a network of `benchmarks/foreign_nets.py` on MNIST (ordinary training), saves its weights,
and hands both to

    fend train mnist-online --classifier benchmarks.foreign_nets:mlp --classifier-weights FILE

Then it audits the classifier alone and behind its denoiser as `benchmarks.beside` does, and
compares the weights bit for bit. Everything is kept in the folder; a stopped training goes on from
there.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from benchmarks.beside import audit_both, table, tell_the_card
from benchmarks.foreign_nets import NETS
from benchmarks.places import default_data_dir
from fend.datasets import ImageSet, load
from training.evaluate import accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=NETS, default="mlp")
    parser.add_argument("--folder", type=Path, default=Path(".fend/foreign"))
    parser.add_argument("--data-dir", type=Path, default=default_data_dir())
    parser.add_argument("--epochs", type=int, default=4, help="Of the classifier.")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--epsilon", type=float, default=0.2)
    parser.add_argument("--set", action="append", default=[], help="As `fend train` takes it.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    weights = options.folder / f"{options.net}.safetensors"
    if not weights.is_file():
        images = load("mnist:train", options.data_dir)
        _train_classifier(options.net, images, options.epochs, weights)
    command = [
        str(Path(sys.executable).parent / "fend"), "train", "mnist-online",
        "--classifier", f"benchmarks.foreign_nets:{options.net}",
        "--classifier-weights", str(weights), "--resume", "--threads", "1",
        "--models-dir", str(options.folder / "models"), "--runs-dir", str(options.folder / "runs"),
        "--data-dir", str(options.data_dir),
    ]  # fmt: skip
    for change in (f"name=foreign-{options.net}", *options.set):
        command += ["--set", change]
    subprocess.run(command, check=True)
    bundle = options.folder / "models" / f"foreign-{options.net}"
    alone, defended = audit_both(bundle, options.samples, options.epsilon, options.data_dir)
    tell_the_card(bundle, alone, defended)
    print(f"{table(alone, defended)}\n\n{_untouched(weights, bundle)}")


def _train_classifier(net: str, images: ImageSet, epochs: int, path: Path) -> None:
    """Cross-entropy on clean images, nothing else."""
    torch.manual_seed(0)
    network, batch = NETS[net](), 128
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


def _untouched(weights: Path, bundle: Path) -> str:
    before, after = load_file(weights), load_file(bundle / "classifier.safetensors")
    same = all(name in after and torch.equal(before[name], after[name]) for name in before)
    return (
        f"{len(before)} tensors of the classifier, bit for bit in the bundle: "
        f"{'all the same' if same else 'NOT THE SAME'}"
    )


if __name__ == "__main__":
    main()
