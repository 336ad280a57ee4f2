"""A classifier that the project never saw, protected by one command, its weights untouched.

    python -m benchmarks.foreign_classifier --net mlp

Trains a network on MNIST (ordinary training), saves its weights, and hands both to

    fend train mnist-online --classifier benchmarks.foreign_classifier:mlp --classifier-weights FILE

Then it audits the classifier alone and behind its denoiser as `benchmarks.beside` does, and
compares the weights bit for bit. Everything is kept in the folder; a stopped training goes on from
there.
"""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.beside import audit_both, table, tell_the_card
from benchmarks.common import parser_of
from fend.datasets import ImageSet, load
from training.evaluate import accuracy

MEAN, STD = 0.1307, 0.3081  # of MNIST


class _Normalised(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images - torch.tensor([MEAN]).view(1, 1, 1)) / STD


def mlp() -> nn.Module:
    """Two hidden layers, no convolution: 28x28x1 images in [0, 1] to 10 logits."""
    return nn.Sequential(
        _Normalised(),
        nn.Flatten(),
        nn.Linear(784, 512),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.Linear(512, 256),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.Linear(256, 10),
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(features + self.body(features))


def residual() -> nn.Module:
    """Two residual blocks between max pools, after He et al. 2016."""
    return nn.Sequential(
        _Normalised(),
        nn.Conv2d(1, 16, 5, padding=2),
        nn.MaxPool2d(2),
        _Residual(16),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.MaxPool2d(2),
        _Residual(32),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(288, 10),
    )


NETS = {"mlp": mlp, "residual": residual}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--net", choices=NETS, default="mlp")
    parser.add_argument("--folder", type=Path, default=Path(".fend/foreign"))
    parser.add_argument("--epochs", type=int, default=4, help="Epochs of the classifier.")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--epsilon", type=float, default=0.2)
    parser.add_argument(
        "--set", action="append", default=[], help="Change of the recipe, as `fend train` takes it."
    )
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    weights = options.folder / f"{options.net}.safetensors"
    if not weights.is_file():
        images = load("mnist:train", options.data_dir)
        _train_classifier(options.net, images, options.epochs, weights)
    command = [
        str(Path(sys.executable).parent / "fend"), "train", "mnist-online",
        "--classifier", f"benchmarks.foreign_classifier:{options.net}",
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
