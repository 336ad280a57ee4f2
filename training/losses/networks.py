"""The pretrained networks whose feature maps the loss compares (the paper, section 3.3).

A loss network is frozen, in eval mode, and never part of the served pipeline. It prepares its own
input (channel order, scale) and names its layers as the literature does: `relu3_2` is the second
convolution of the third VGG block after its ReLU, `pool3` the pooling after that block.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from fend.errors import Invalid

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)

NetworkName = Literal["vgg16-imagenet", "vgg16-cifar10", "vgg16-voc", "squeezenet-imagenet"]


@dataclass(frozen=True)
class Source:
    """The file of a loss network's weights, and the layers that each tap profile names."""

    file: str
    """Name of the file in DATA_DIR/loss-networks."""
    sha256: str
    """Digest of the file; of vgg16-imagenet torchvision publishes the first eight digits."""
    taps: Mapping[str, tuple[str, ...]]
    """Profiles of `research`: `text` (the paper's sentence), `shapes` (its stated sizes at 32 px),
    `author_code` (the public repository's slices). A truncated network has those that remain."""


_WHOLE_VGG = {
    "text": ("relu5_3", "relu4_2", "relu3_2"),
    "shapes": ("relu5_3", "pool3", "pool2"),
    "author_code": ("relu5_2", "pool4", "relu4_2"),
}

SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "vgg16-imagenet": Source("vgg16-397923af.pth", "397923af", _WHOLE_VGG),
        "vgg16-cifar10": Source(
            "vgg16_cifar10.safetensors",
            "7cd0e5b055a2378c771d59f4c33e84c97d0a613af3e5488c9488a983635cece3",
            _WHOLE_VGG,
        ),
        "vgg16-voc": Source(
            "vgg16_ssd300voc_blocks123.safetensors",
            "7a6c12d3d2f24651402cd263bb12c795d48cde24f8e9172558799f3ef9a0aaa6",
            {"text": ("relu3_2",), "shapes": ("pool3", "pool2")},
        ),
        "squeezenet-imagenet": Source(
            "squeezenet1_1_imagenet_notop.safetensors",
            "03e426caec8faf6ddd0cbd26876b0fcb1ad7595a70659dfc374b91f4bcd06300",
            {"fire": ("fire9", "fire5", "fire3")},
        ),
    }
)

_VGG_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class LossNetwork(nn.Module):
    """Named layers in order; the forward pass stops at the deepest tap."""

    def __init__(
        self,
        layers: Sequence[tuple[str, nn.Module]],
        taps: Sequence[str],
        *,
        scale: float,
        mean: Sequence[float],
        std: Sequence[float],
        bgr: bool,
        input_px: int,
    ) -> None:
        super().__init__()
        names = [name for name, _ in layers]
        unknown = sorted(set(taps) - set(names))
        if unknown:
            known = ", ".join(name for name in names if name.startswith(("relu", "pool", "fire")))
            raise Invalid(
                f"no layer {', '.join(unknown)} to tap; there are: {known}",
                code="loss_network_unavailable",
            )
        self.mean: Tensor
        self.std: Tensor
        self.taps = tuple(taps)
        self.bgr = bgr
        self.input_px = input_px
        deepest = max(names.index(tap) for tap in taps)
        self.layers = nn.ModuleDict(dict(layers[: deepest + 1]))
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) / scale)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) / scale)
        self.to(memory_format=torch.channels_last)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N,1|3,H,W) in [0, 1] to the feature maps of the taps.

        Grey becomes three equal channels; an image smaller than `input_px` is padded with black
        (MNIST's background: no resampling blur), a larger one is resized.
        """
        maps: dict[str, Tensor] = {}
        current = self._prepare(images)
        for name, layer in self.layers.items():
            current = layer(current)
            if name in self.taps:
                maps[name] = current
        return maps

    def _prepare(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if max(height, width) > self.input_px:
            size = (self.input_px, self.input_px)
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        elif min(height, width) < self.input_px:
            down, right = self.input_px - height, self.input_px - width
            images = F.pad(images, (right // 2, right - right // 2, down // 2, down - down // 2))
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        elif self.bgr:
            images = images.flip(1)
        prepared: Tensor = (images - self.mean) / self.std
        return prepared.contiguous(memory_format=torch.channels_last)


def load_loss_network(
    name: str,
    taps: str | Sequence[str],
    data_dir: Path | None,
    *,
    input_px: int = 32,
    file: Path | None = None,
) -> LossNetwork:
    """The loss network `name`, frozen.

    `taps` is a profile of that network or layer names. Weights come from `file`, else from
    DATA_DIR/loss-networks, checked by digest; `vgg16-imagenet` alone is downloaded if it is in
    neither place.

    Raises:
        Invalid: the name, profile or layer is unknown, or the file is missing or not the
            published one.
    """
    if name not in SOURCES:
        raise Invalid(
            f"no loss network {name!r}; there are: {', '.join(SOURCES)}",
            code="loss_network_unavailable",
        )
    source = SOURCES[name]
    chosen = _resolve_taps(name, source, taps)
    state = _weights(name, source, data_dir, file)
    if name == "squeezenet-imagenet":
        return _squeezenet(state, chosen, input_px)
    by_block = any(key.startswith("conv") for key in state)
    return _vgg16(state if by_block else _by_block(state), chosen, input_px)


def _resolve_taps(name: str, source: Source, taps: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(taps, str):
        return tuple(taps)
    if taps not in source.taps:
        known = ", ".join(source.taps)
        raise Invalid(
            f"{name} has no tap profile {taps!r}; it has: {known}", code="loss_network_unavailable"
        )
    return source.taps[taps]


def _weights(
    name: str, source: Source, data_dir: Path | None, file: Path | None
) -> dict[str, Tensor]:
    path = file or (data_dir / "loss-networks" / source.file if data_dir else None)
    if path is None or not path.is_file():
        if name == "vgg16-imagenet" and file is None:
            return _download_vgg16()
        raise Invalid(
            f"the weights of {name} are not at {path}: put {source.file} into "
            "FEND_DATA_DIR/loss-networks, or choose another loss network",
            code="loss_network_unavailable",
        )
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(source.sha256):
        raise Invalid(
            f"{path} is not the published file: its sha256 is {digest}",
            code="loss_network_unavailable",
        )
    if path.suffix == ".safetensors":
        return {key: value.float() for key, value in load(data).items()}
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return _features_only(state)


def _download_vgg16() -> dict[str, Tensor]:
    from torchvision.models import VGG16_Weights

    try:
        state = VGG16_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True, progress=True)
    except (OSError, RuntimeError) as error:
        raise Invalid(
            "vgg16-imagenet could not be downloaded: put vgg16-397923af.pth into "
            "FEND_DATA_DIR/loss-networks, or choose another loss network",
            code="loss_network_unavailable",
        ) from error
    return _features_only(dict(state))


def _features_only(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "features."
    return {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}


def _by_block(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under names of block and convolution; torchvision numbers the layers."""
    renamed = {}
    index = 0
    for block, widths in enumerate(_VGG_BLOCKS, start=1):
        for conv in range(1, len(widths) + 1):
            for part in ("weight", "bias"):
                renamed[f"conv{block}_{conv}.{part}"] = features[f"{index}.{part}"]
            index += 2
        index += 1
    return renamed


def _convolution(state: Mapping[str, Tensor], key: str, **options: int) -> nn.Conv2d:
    weight = state[f"{key}.weight"]
    outputs, inputs, size, _ = weight.shape
    layer = nn.Conv2d(inputs, outputs, kernel_size=size, **options)  # type: ignore[arg-type]
    layer.load_state_dict({"weight": weight, "bias": state[f"{key}.bias"]})
    return layer


def _vgg16(state: Mapping[str, Tensor], taps: Sequence[str], input_px: int) -> LossNetwork:
    layers: list[tuple[str, nn.Module]] = []
    for block, widths in enumerate(_VGG_BLOCKS, start=1):
        if f"conv{block}_1.weight" not in state:
            break
        for conv in range(1, len(widths) + 1):
            key = f"conv{block}_{conv}"
            layers.append((key, _convolution(state, key, padding=1)))
            layers.append((f"relu{block}_{conv}", nn.ReLU()))
        layers.append((f"pool{block}", nn.MaxPool2d(2)))
    return LossNetwork(
        layers, taps, scale=1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD, bgr=False, input_px=input_px
    )


class _Fire(nn.Module):
    """SqueezeNet's module: a narrow convolution, then 1x1 and 3x3 ones side by side."""

    def __init__(self, state: Mapping[str, Tensor], key: str) -> None:
        super().__init__()
        self.squeeze = _convolution(state, f"{key}.squeeze1x1")
        self.expand1x1 = _convolution(state, f"{key}.expand1x1")
        self.expand3x3 = _convolution(state, f"{key}.expand3x3", padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        squeezed = F.relu(self.squeeze(maps))
        return torch.cat([F.relu(self.expand1x1(squeezed)), F.relu(self.expand3x3(squeezed))], 1)


def _squeezenet(state: Mapping[str, Tensor], taps: Sequence[str], input_px: int) -> LossNetwork:
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", _convolution(state, "conv1", stride=2)),
        ("relu1", nn.ReLU()),
    ]
    for number in range(2, 10):
        if number in (2, 4, 6):
            pool = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
            layers.append((f"pool{number - 1}", pool))
        layers.append((f"fire{number}", _Fire(state, f"fire{number}")))
    return LossNetwork(
        layers,
        taps,
        scale=255.0,
        mean=CAFFE_MEAN_BGR,
        std=(1.0, 1.0, 1.0),
        bgr=True,
        input_px=input_px,
    )
