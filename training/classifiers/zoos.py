"""Classifiers of torchvision, timm and transformers, with what these say of them.

Weights are downloaded by the library's own hub code, or come from a file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import nn

from fend.images.spec import Interpolation
from training.classifiers.said import ForeignInvalid, Said
from training.classifiers.weights import classes_of, load_weights, read_weights

IMAGENET_CLASSES = 1000
_TRANSFORMED = ("googlenet", "inception_v3")
"""torchvision's that take ImageNet's normalisation and undo it, where they get its weights."""
_PILLOW_FILTERS: dict[Any, Interpolation] = {
    0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box",
}  # fmt: skip
"""By Pillow's numbers, as a preprocessor of transformers calls them."""


def open_torchvision(name: str, weights: Path | None) -> tuple[nn.Module, Said]:
    """`torchvision:NAME`, with the best weights that torchvision has, or those of the file."""
    try:
        from torchvision import models
    except ImportError as error:
        raise _not_installed("torchvision", "train") from error
    _check_name("torchvision", name, models.list_models(module=models))
    versions = list(models.get_model_weights(name))
    best = next(
        (one for one in versions if weights is not None and one.url.endswith(weights.name)),
        models.get_model_weights(name).DEFAULT,
    )
    said, labels = _of_torchvision(best.transforms()), tuple(best.meta["categories"])
    if weights is None:
        module = _downloaded(f"torchvision:{name}", lambda: models.get_model(name, weights=best))
    else:
        options: dict[str, Any] = {"init_weights": False, "transform_input": True}
        options = options if name in _TRANSFORMED else {}
        module, classes = _with_weights(
            lambda classes: models.get_model(name, weights=None, num_classes=classes, **options),
            weights,
            f"torchvision:{name}",
        )
        labels = labels if classes == IMAGENET_CLASSES else ()
    return module, _labelled(said, labels)


def _of_torchvision(transforms: Any) -> Said:
    height = width = transforms.crop_size[0]
    return Said(
        channels=3,
        size_px=(height, width),
        resize="crop",
        crop_from_px=transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def open_timm(name: str, weights: Path | None) -> tuple[nn.Module, Said]:
    """`timm:NAME`, such as resnet18 or resnet18.a1_in1k."""
    try:
        import timm
        from timm.data import ImageNetInfo, infer_imagenet_subset
    except ImportError as error:
        raise _not_installed("timm", "classifiers") from error
    _check_name("timm", name.partition(".")[0], timm.list_models())
    source, labels = f"timm:{name}", ()
    if weights is None:
        module = _downloaded(source, lambda: timm.create_model(name, pretrained=True))
        subset = infer_imagenet_subset(module)
        if subset is not None:
            labels = tuple(ImageNetInfo(subset).label_descriptions())
    else:
        module, _ = _with_weights(
            lambda classes: timm.create_model(name, num_classes=classes), weights, source
        )
    return module, _labelled(said_by_timm(module), labels)


def said_by_timm(module: nn.Module) -> Said:
    """Input of a network of timm, as it says."""
    from timm.data import resolve_model_data_config

    data = resolve_model_data_config(module)
    channels, height, width = data["input_size"]
    crop_from = int(max(height, width) / data.get("crop_pct", 1.0))
    squashed, bordered = (data.get("crop_mode") == mode for mode in ("squash", "border"))
    known = data["interpolation"] in _PILLOW_FILTERS.values()
    return Said(
        channels=channels,
        size_px=(height, width),
        resize="stretch" if squashed else "fit" if bordered else "crop",
        crop_from_px=None if bordered else crop_from,
        interpolation=data["interpolation"] if known else "bilinear",  # "random" in training
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )


def open_hugging_face(name: str, weights: Path | None) -> tuple[nn.Module, Said]:
    """`hf:NAME` of the hub, or `hf:FOLDER` with its config.json. No code of the model's is run."""
    try:
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
    except ImportError as error:
        raise _not_installed("transformers", "classifiers") from error
    source = f"hf:{name}"
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise ForeignInvalid(f"{source}: there is no such folder")

    def loaded() -> nn.Module:
        if weights is not None:
            made: nn.Module = AutoModelForImageClassification.from_config(
                AutoConfig.from_pretrained(name)
            )
            return made
        made, report = AutoModelForImageClassification.from_pretrained(
            name, output_loading_info=True
        )
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])[0]
            raise ForeignInvalid(
                f"{source} is no classifier: it has no {missing}; choose one that was trained to "
                "classify images"
            )
        return made

    module = _downloaded(source, loaded)
    if weights is not None:
        load_weights(module, weights, source)
    config: Any = module.config
    try:
        processor = AutoImageProcessor.from_pretrained(name).to_dict()
    except (OSError, ValueError, ImportError):  # it comes without one
        processor = {}
    said = said_by_processor(processor, config)
    names = [config.id2label.get(index, "") for index in range(len(config.id2label))]
    named = [f"LABEL_{index}" for index in range(len(names))] != names and "" not in names
    return module, _labelled(said, tuple(names) if named else ())


def said_by_processor(processor: Mapping[str, Any], config: Any) -> Said:
    """What a preprocessor of transformers does with an image, as data."""
    kind = str(processor.get("image_processor_type", ""))
    resized = _sides(processor.get("size")) if processor.get("do_resize", True) else None
    cropped = _sides(processor.get("crop_size")) if processor.get("do_center_crop") else None
    shorter = isinstance(processor.get("size"), Mapping) and "shortest_edge" in processor["size"]
    crop_from, part = max(resized or (0,)), processor.get("crop_pct")
    if (
        resized and part and (kind.startswith("Pool") or crop_from < 384)
    ):  # ConvNeXT's, PoolFormer's
        cropped, crop_from, shorter = cropped or resized, int(crop_from / part), True
    elif resized and part:
        cropped, shorter = None, False
    if kind.startswith("Levit") and shorter:
        crop_from = int(crop_from * 256 / 224)
    size = cropped or resized or _sides(getattr(config, "image_size", None))
    said = Said(
        channels=getattr(config, "num_channels", 3),
        size_px=size,
        resize=None if resized is None else "crop" if shorter else "stretch",
        crop_from_px=crop_from if resized and size and crop_from > max(size) else None,
        interpolation=_PILLOW_FILTERS.get(processor.get("resample")),
        bgr=True if processor.get("do_flip_channel_order") else None,
    )
    return _normalised(said, processor)


def _normalised(said: Said, processor: Mapping[str, Any]) -> Said:
    """`said` with the mean and the standard deviation of pixels in [0, 1]."""
    if not processor:
        return said
    channels = said.channels or 3
    factor = (
        255 * processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale") else 255.0
    )
    offset = 1.0 if processor.get("rescale_offset") else 0.0
    mean, std = [0.0] * channels, [1.0] * channels
    if processor.get("do_normalize"):
        mean, std = list(processor["image_mean"]), list(processor["image_std"])
        if processor.get("include_top"):  # EfficientNet's divides twice
            std = [value**2 for value in std]
    return replace(
        said,
        mean=tuple((value + offset) / factor for value in mean),
        std=tuple(value / factor for value in std),
    )


def _sides(written: Any) -> tuple[int, int] | None:
    if isinstance(written, Mapping):
        side = written.get("shortest_edge")
        written = side or (written.get("height"), written.get("width"))
    if isinstance(written, int):
        return written, written
    if isinstance(written, Sequence) and len(written) == 2 and all(written):
        return int(written[0]), int(written[1])
    return None


def _with_weights(
    make: Callable[[int], nn.Module], weights: Path, source: str
) -> tuple[nn.Module, int]:
    """The network with the weights of the file, of as many classes as they are; and that number."""
    state, module = read_weights(weights), make(IMAGENET_CLASSES)
    classes = classes_of(state, module.state_dict(), IMAGENET_CLASSES)
    if classes != IMAGENET_CLASSES:
        module = make(classes)
    load_weights(module, weights, source)
    return module, classes


def _downloaded(source: str, load: Callable[[], nn.Module]) -> nn.Module:
    try:
        return load()
    except ForeignInvalid:
        raise
    except Exception as error:  # hubs raise whatever their clients for HTTP and files do
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ForeignInvalid(
            f"{source} cannot be loaded or downloaded ({reason[0]}); where there is no network, "
            "download it elsewhere and give its weights with --classifier-weights FILE"
            + (", or its folder as hf:FOLDER" if source.startswith("hf:") else "")
        ) from error


def _labelled(said: Said, labels: tuple[str, ...]) -> Said:
    return replace(said, labels=labels or None)


def _check_name(zoo: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = ", ".join(get_close_matches(name, known)) or ", ".join(list(known)[:3])
        raise ForeignInvalid(f"{zoo} has no classifier {name!r}; it has, among others: {near}")


def _not_installed(library: str, extra: str) -> ForeignInvalid:
    return ForeignInvalid(f"{library} is not installed: pip install 'fend[{extra}]'")
