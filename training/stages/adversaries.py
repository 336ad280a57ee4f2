"""Static adversarial images: made once against the bare classifier, kept on disk, resumable.

    CACHE/<digest of all inputs>/chunk-00000.safetensors ...

Static images, the paper's method, do not depend on the denoiser that learns from them, so a
denoiser trained on them alone falls to a white-box attacker.
"""

import hashlib
from pathlib import Path

import torch
from filelock import FileLock
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from fend.attacks import AttackSpec
from fend.datasets import ImageSet
from fend.files import replacing
from fend.threat import ThreatModel
from training.evaluate import attacked

CHUNK = 500
"""Number of images in a file, the most that a stopped run loses."""


def make_adversaries(
    attacker: AttackSpec,
    classifier: nn.Module,
    images: ImageSet,
    threat: ThreatModel,
    *,
    seed: int,
    cache: Path,
    console: Console,
) -> Tensor:
    """Adversarial versions of all `images` against `classifier`: float16 (N,C,H,W) in [0, 1].

    Half precision moves a pixel by at most 0.0005, an eighth of one 8-bit step. Two processes that
    need the same images share the files: one waits while the other makes a file.
    """
    folder = cache / _digest(attacker, classifier, images, threat, seed)
    folder.mkdir(parents=True, exist_ok=True)
    chunks = []
    starts = range(0, len(images), CHUNK)
    for start in track(
        starts, f"{attacker.name} on {images.name}", console=console, transient=True
    ):
        path = folder / f"chunk-{start // CHUNK:05d}.safetensors"
        with FileLock(folder / "lock"):
            if not path.is_file():
                ids = torch.arange(start, min(start + CHUNK, len(images)))
                found = attacked(attacker, classifier, images, ids, threat, seed)
                made = torch.cat([part.half().cpu() for part, _ in found]).contiguous()
                with replacing(path) as unfinished:
                    save_file({"adversarial": made}, unfinished)
        chunks.append(load_file(path)["adversarial"])
    return torch.cat(chunks)


def _digest(
    attacker: AttackSpec, classifier: nn.Module, images: ImageSet, threat: ThreatModel, seed: int
) -> str:
    state = {key: value.cpu().contiguous() for key, value in classifier.state_dict().items()}
    parts = [
        save(state),
        images.digest.encode(),
        attacker.model_dump_json().encode(),
        threat.model_dump_json().encode(),
        str(seed).encode(),
        str(CHUNK).encode(),
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:32]
