"""Where classifiers come from: one function for each kind of source, chosen by the source's name.

Code of the user's, or of the libraries that made the classifier, runs here and nowhere else.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from torch import nn
from torch.jit import ScriptModule

from training.classifiers.exported import open_exported
from training.classifiers.onnx_file import open_onnx
from training.classifiers.said import ForeignInvalid, Said
from training.classifiers.weights import is_torchscript, load_weights
from training.classifiers.zoos import open_hugging_face, open_timm, open_torchvision


@dataclass(frozen=True)
class Opened:
    """What a source gives."""

    module: nn.Module
    """Normalised images (N,C,H,W) to logits, or to something that holds them."""
    said: Said
    weights: Path | None = None
    """The file that the weights come from, where one was given."""


ZOOS: Mapping[str, Callable[[str, Path | None], tuple[nn.Module, Said]]] = MappingProxyType(
    {"torchvision": open_torchvision, "timm": open_timm, "hf": open_hugging_face}
)
"""By the word before the colon. The file holds the weights, which are downloaded without one."""

FILES: Mapping[str, Callable[[Path], tuple[nn.Module, Said]]] = MappingProxyType(
    {".onnx": open_onnx, ".pt2": open_exported}
)
"""By the end of the file's name: files that hold the network and its weights."""

_KINDS = (
    "torchvision:NAME, timm:NAME, hf:NAME or hf:FOLDER, FILE.onnx, FILE.pt2, "
    "package.module:function, or the folder of a bundle"
)


def is_bundle(source: str) -> bool:
    """Whether the source is the folder of a bundle, whose classifier needs no opening here."""
    return (Path(source) / "manifest.json").is_file()


def open_source(source: str, weights: Path | None = None) -> Opened:
    """The classifier that `source` names, in eval mode, and what the source says of it.

    Raises:
        ForeignInvalid: what the message says.
    """
    name, colon, rest = source.partition(":")
    path = Path(source)
    if colon and name in ZOOS:
        module, said = ZOOS[name](rest, weights)
        opened = Opened(module, said, weights)
    elif path.suffix.lower() in FILES:
        if weights is not None:
            raise ForeignInvalid(f"{source} holds its weights; leave {weights} out")
        if not path.is_file():
            raise ForeignInvalid(f"{source}: there is no such file")
        opened = Opened(*FILES[path.suffix.lower()](path), weights=path)
    elif path.exists():
        raise ForeignInvalid(_other_file(path))
    else:
        module = _made(source)
        if weights is not None:
            load_weights(module, weights, source)
        opened = Opened(module, Said(), weights)
    opened.module.eval().requires_grad_(False).float()
    return opened


def _made(factory: str) -> nn.Module:
    name, colon, attribute = factory.partition(":")
    if "/" in factory:
        raise ForeignInvalid(f"{factory}: there is no such file or folder")
    if not colon or not name or not attribute:
        raise ForeignInvalid(f"{factory!r} is no source of a classifier; there are: {_KINDS}")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # a file beside the user, as with `python -m`
    try:
        function = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError) as error:
        raise ForeignInvalid(f"{factory}: {error}; it is looked for in {here} too") from error
    finally:
        sys.path.remove(here)
    try:
        module = function()
    except Exception as error:  # whatever the user's code raises
        raise ForeignInvalid(f"{factory} fails: {type(error).__name__}: {error}") from error
    if isinstance(module, ScriptModule):
        raise ForeignInvalid(
            f"{factory} gives a TorchScript module, which cannot be written down as a graph; give "
            "the torch.nn.Module that it was made of"
        )
    if not isinstance(module, nn.Module):
        raise ForeignInvalid(f"{factory} gives a {type(module).__name__}, not a torch.nn.Module")
    try:
        return module.eval()
    except NotImplementedError as error:
        raise ForeignInvalid(
            f"{factory} gives the module of an exported program; save the program itself with "
            "torch.export.save and give that file, its name ending in .pt2"
        ) from error


def _other_file(path: Path) -> str:
    """Why the file, or folder, is no source."""
    if path.is_dir():
        return f"{path} is no bundle; write hf:{path} where it holds a model of Hugging Face"
    if is_torchscript(path):
        return (
            f"{path} is TorchScript, which cannot be written down as a graph; export the module "
            "that it was made of with torch.export.save or torch.onnx.export"
        )
    if path.suffix.lower() in (".pt", ".pth", ".bin", ".ckpt", ".safetensors"):
        return (
            f"{path} holds weights, and not the network; name a source of the network, such as "
            f"package.module:function, and give --classifier-weights {path}"
        )
    return f"{path} is no source of a classifier; there are: {_KINDS}. Convert it to ONNX"
