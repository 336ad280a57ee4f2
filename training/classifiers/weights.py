"""Tensors from a file of weights into the network that they belong to."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from training.classifiers.said import ForeignInvalid

_INSIDE = ("state_dict", "model_state_dict", "model", "net", "model_ema")
"""Under which trainings keep the weights in a checkpoint."""


def load_weights(module: nn.Module, path: Path, source: str) -> None:
    """Give `module` the tensors of the file, which are exactly its own.

    Raises:
        ForeignInvalid: no file of tensors, or tensors of another network.
    """
    state = read_weights(path)
    own = module.state_dict()
    other = sorted(name for name in own.keys() & state if own[name].shape != state[name].shape)
    parts = [
        _some("lacks", sorted(own.keys() - state)),
        _some("has also", sorted(state.keys() - own)),
    ]
    if other:
        there, here = (_shape(tensors[other[0]]) for tensors in (state, own))
        parts.append(f"has {other[0]} of {there} where {here} is needed{_more(other)}")
    if told := "; ".join(part for part in parts if part):
        raise ForeignInvalid(
            f"{path} does not fit {source}: it {told}. Give the weights of this very network"
        )
    module.load_state_dict(state)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of what torch.save wrote, by name.

    Raises:
        ForeignInvalid: it is neither, or holds more than tensors, which would have to be run.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise ForeignInvalid(f"{path} is not a safetensors file ({error})") from error
    if is_torchscript(path):
        raise ForeignInvalid(f"{path} is TorchScript, not weights: save model.state_dict()")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ForeignInvalid(f"{path} cannot be read: {error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ForeignInvalid(
            f"{path} holds more than tensors, or is no file of torch.save: save the tensors alone, "
            "with torch.save(model.state_dict(), FILE) or safetensors.torch.save_file"
        ) from error
    inside = next((held[key] for key in _INSIDE if isinstance(held, Mapping) and key in held), held)
    if not isinstance(inside, Mapping) or not all(isinstance(v, Tensor) for v in inside.values()):
        raise ForeignInvalid(f"{path} holds no tensors by name; save model.state_dict()")
    if inside and all(str(name).startswith("module.") for name in inside):  # nn.DataParallel's
        inside = {str(name).removeprefix("module."): value for name, value in inside.items()}
    return dict(inside)


def is_torchscript(path: Path) -> bool:
    """Whether torch.jit.save wrote the file."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def classes_of(state: Mapping[str, Tensor], own: Mapping[str, Tensor], classes: int) -> int:
    """Of how many classes the weights are, where the network with `own` tensors has `classes`:
    the weights of its last layer, and they alone, may have another first size."""
    sizes: set[Any] = {
        len(state[name])
        for name in own.keys() & state
        if own[name].dim()
        and own[name].shape != state[name].shape
        and len(own[name]) == classes
        and state[name].dim()
        and own[name].shape[1:] == state[name].shape[1:]
    }
    return int(sizes.pop()) if len(sizes) == 1 else classes


def _some(what: str, names: list[str]) -> str:
    return f"{what} {names[0]}{_more(names)}" if names else ""


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "one number"
