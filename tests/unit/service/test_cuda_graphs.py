"""Recorded graphs answer what the model does."""

import pytest
import torch

from fend.models.architectures.lenet import PaperLeNet
from fend.models.architectures.unet import ResidualUNet
from fend.pipeline import Defence, frozen
from service.inference.cuda_graphs import Captured, buckets
from service.inference.frozen_graph import TOLERANCE, Served


@pytest.mark.parametrize(
    ("max_batch", "sizes"),
    [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (64, [1, 2, 4, 8, 16, 32, 64])],
)
def test_every_batch_has_a_bucket_less_than_twice_its_size(max_batch, sizes):
    assert buckets(max_batch) == sizes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("size", [1, 3, 16])
def test_a_recorded_graph_answers_what_its_model_does(size: int) -> None:
    device = torch.device("cuda")
    defence = Defence(ResidualUNet(width=4), PaperLeNet()).to(device)
    frozen(defence)
    served = Served(defence).eval()
    graph = Captured(served, torch.rand(1, 28, 28), device, max_batch=16)
    for _ in range(2):  # the second batch must not find the first one's answers
        images = torch.rand(size, 1, 28, 28)
        for one, other in zip(served(images.to(device)), graph(images), strict=True):
            assert other.device.type == "cpu"
            assert torch.allclose(one.cpu().float(), other.float(), rtol=0, atol=TOLERANCE)
