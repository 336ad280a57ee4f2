"""How many images a network takes at once, found by measuring what one of them keeps."""

import torch
from torch import Tensor, nn

BUDGET_BYTES = 2**30
"""Of a batch on a CPU, each process for itself; on a GPU a quarter of its memory."""


def images_at_once(network: nn.Module, image_shape: tuple[int, ...], most: int) -> int:
    """How many images (C,H,W), 1 to `most`, `network` takes in a pass with its gradient.

    The same on each machine, so that work is cut in the same parts, but for the size of a GPU.
    """
    tensors = [*network.parameters(), *network.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    budget = BUDGET_BYTES
    if device.type == "cuda":
        budget = torch.cuda.get_device_properties(device).total_memory // 4
    return max(1, min(most, budget // max(1, bytes_of_image(network, image_shape, device))))


def bytes_of_image(
    network: nn.Module, image_shape: tuple[int, ...], device: torch.device | str = "cpu"
) -> int:
    """What is kept of an image between a pass and its gradient, in bytes, weights not counted."""
    own = {
        held.untyped_storage().data_ptr() for held in (*network.parameters(), *network.buffers())
    }
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in own:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    image = torch.zeros(1, *image_shape, device=device, requires_grad=True)
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),  # a network may draw
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        _answers = network(image)  # lives until here, so that no memory is counted twice, or missed
        total = sum(kept.values())
    return total + image.untyped_storage().nbytes()
