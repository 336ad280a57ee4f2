"""Which classifiers of torchvision, timm and transformers Fend takes: random weights, small ones.

    python -m benchmarks.foreign_architectures [--only timm]

Each is taken whole, as a user's is: exported, written down as a graph, compared with the module in
logits and gradients, and served as one TorchScript call at batches of 1, 2 and 7, and by OpenVINO
where it is installed. The last column says why one is refused. Takes twenty minutes on two idle
cores.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import parser_of
from fend.errors import FendError
from fend.images import InputSpec
from fend.pipeline import Defence, frozen
from service.inference import openvino_graph
from service.inference.frozen_graph import GraphDisagrees, Served
from service.inference.frozen_graph import frozen as one_call
from training.classifiers.foreign import taken
from training.classifiers.said import Said
from training.classifiers.sources import Opened

BATCHES = (1, 2, 7)
TORCHVISION = (
    "resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "squeezenet1_1",
    "shufflenet_v2_x1_0", "densenet121", "googlenet", "inception_v3", "convnext_tiny",
    "regnet_y_400mf", "mnasnet0_5", "vit_b_32", "swin_t", "swin_v2_t", "maxvit_t",
)  # fmt: skip
TIMM = (
    "mobilenetv3_small_100", "mobilenetv4_conv_small", "ghostnet_100", "vit_tiny_patch16_224",
    "convnext_atto", "mixer_s32_224", "tiny_vit_5m_224", "levit_128s", "repvgg_a0",
    "mobilevit_xxs", "poolformer_s12", "resnetv2_50", "swin_tiny_patch4_window7_224",
    "coatnet_0_224", "cait_xxs24_224", "hrnet_w18_small", "fastvit_t8", "efficientvit_b0",
    "xcit_nano_12_p16_224", "eva02_tiny_patch14_224", "edgenext_xx_small", "nf_regnet_b0",
)  # fmt: skip
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
HUGGING_FACE: dict[str, tuple[dict[str, Any], int]] = {
    "ViT": (SMALL | {"intermediate_size": 64, "image_size": 64}, 64),
    "DeiT": (SMALL | {"intermediate_size": 64, "image_size": 64}, 64),
    "Beit": (SMALL | {"intermediate_size": 64, "image_size": 64}, 64),
    "Dinov2": (SMALL | {"image_size": 56, "patch_size": 14}, 56),
    "ResNet": ({"embedding_size": 16, "hidden_sizes": [16, 32, 64, 64], "depths": [1] * 4}, 64),
    "ConvNext": ({"hidden_sizes": [16, 32, 64, 64], "depths": [1] * 4}, 64),
    "MobileNetV1": ({}, 64),
    "MobileNetV2": ({}, 64),
    "MobileViT": ({"image_size": 64}, 64),
    "EfficientNet": ({}, 64),
    "RegNet": ({"embedding_size": 16, "hidden_sizes": [16, 32, 64, 64], "depths": [1] * 4}, 64),
    "Segformer": ({}, 64),
    "PoolFormer": ({}, 64),
    "Levit": ({"image_size": 224}, 224),
    "PvtV2": ({}, 64),
    "Swin": (
        {
            "image_size": 64,
            "embed_dim": 24,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 4,
        },
        64,
    ),
}
"""Configuration and size of the images."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--only", choices=("torchvision", "timm", "hf"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    counts: dict[str, list[bool]] = {}
    print("| classifier | input | parameters | steps | seconds | served at 1, 2, 7 | |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for zoo, name, make, size_px in _all(options.only):
        row, fine = _row(f"{zoo}:{name}", make, size_px)
        counts.setdefault(zoo, []).append(fine)
        print(row, flush=True)
    print()
    for zoo, fine in counts.items():
        print(f"{zoo}: {sum(fine)} of {len(fine)}")


def _all(only: str | None) -> Iterator[tuple[str, str, Callable[[], nn.Module], int]]:
    if only in (None, "torchvision"):
        from torchvision import models

        for name in TORCHVISION:
            size_px = {"inception_v3": 96, "vit_b_32": 224, "maxvit_t": 224}.get(name, 64)
            yield (
                "torchvision",
                name,
                lambda name=name: models.get_model(name, weights=None),
                size_px,
            )
    if only in (None, "timm"):
        import timm

        for name in TIMM:
            size_px = 224 if "_224" in name or name == "levit_128s" else 64
            yield "timm", name, lambda name=name: timm.create_model(name), size_px
    if only in (None, "hf"):
        import transformers

        for name, (changes, size_px) in HUGGING_FACE.items():
            config = getattr(transformers, f"{name}Config")(num_labels=10, **changes)
            made = getattr(transformers, f"{name}ForImageClassification")
            yield "hf", name, lambda made=made, config=config: made(config), size_px


def _row(source: str, make: Callable[[], nn.Module], size_px: int) -> tuple[str, bool]:
    torch.manual_seed(0)
    began = time.perf_counter()
    spec = InputSpec(channels=3, height_px=size_px, width_px=size_px)
    try:
        module = frozen(make())
        classifier = taken(source, Opened(module, Said()), Said(), spec)
        served, why = _served(classifier.module, torch.rand(7, 3, size_px, size_px)), ""
    except FendError as error:
        served, why, classifier = "no", str(error)[:200].replace("\n", " "), None
    steps = len(classifier.config["steps"]) if classifier else 0
    size = sum(parameter.numel() for parameter in module.parameters())
    seconds = time.perf_counter() - began
    row = f"| {source} | {size_px} | {size:,} | {steps} | {seconds:.0f} | {served} | {why} |"
    return row, served.startswith("yes")


@torch.inference_mode()
def _served(network: nn.Module, images: Tensor) -> str:
    served = Served(Defence(nn.Identity(), network)).eval()
    graph = one_call(served, images[0])
    for count in BATCHES:
        expected = network(images[:count]).softmax(1)
        if not torch.allclose(graph(images[:count]).undefended, expected, atol=1e-5):
            return f"other answers at {count}"
    if openvino_graph.version() is None:
        return "yes"
    try:
        openvino_graph.compiled(served, images[0])(1)
    except GraphDisagrees as error:
        return f"yes, but not by OpenVINO: {str(error)[:200]}"
    return "yes"


if __name__ == "__main__":
    main()
