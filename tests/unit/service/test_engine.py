"""Which engine serves, and that it does not matter for an answer."""

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fend.bundles import load_bundle
from fend.errors import Invalid
from fend.models.architectures.lenet import PaperLeNet
from fend.pipeline import Defence, frozen
from service.inference import openvino_graph
from service.inference.computing import Wanted, fastest
from service.inference.engine import Answer, Engine, Question
from service.inference.frozen_graph import Served
from service.inference.serving_model import ModelLoader
from service.observe.metrics import Metrics
from service.settings import EngineChoice, Settings

CPU = torch.device("cpu")
OPENVINO = openvino_graph.version() is not None


@pytest.mark.parametrize(
    ("choice", "engine"),
    [("auto", "openvino" if OPENVINO else "torchscript"), ("torch", "torchscript")],
)
def test_questions_with_and_without_comparison_share_a_batch(
    tiny_bundle_dir: Path, choice: EngineChoice, engine: str
) -> None:
    bundle = load_bundle(tiny_bundle_dir / "mnist")
    images = torch.rand(5, 1, 28, 28)
    with torch.inference_mode():
        expected = bundle.defence.answer(images).logits.softmax(1)
    with ThreadPoolExecutor(1) as thread:
        serving = Engine(bundle, CPU, thread, Metrics(), Wanted(choice))
        asyncio.run(serving.warm_up(8))
        questions = [Question(image, compare=i % 2 == 0) for i, image in enumerate(images)]
        answers = asyncio.run(serving.infer(questions))
    assert serving.computing.engine == engine
    for place, answer in enumerate(answers):
        assert isinstance(answer, Answer)
        assert answer.probabilities == pytest.approx(expected[place].tolist(), abs=1e-5)
        assert (answer.suspicion is not None) == questions[place].compare


class Wavering(nn.Module):
    """Does one thing with a batch of several and another with one image, as no graph can."""

    def forward(self, images: Tensor) -> Tensor:
        return images if len(images) > 1 else 1 - images


def test_a_model_that_no_graph_can_be_is_served_as_it_is() -> None:
    defence = Defence(Wavering(), PaperLeNet())
    frozen(defence)
    served = {compare: Served(defence, compare=compare) for compare in (True, False)}
    image = torch.rand(1, 28, 28)
    computing, forwards = fastest(served, image, CPU, Wanted(), 4)
    assert computing.engine == "torch"
    assert torch.equal(forwards[False](image[None]).denoised[0], 1 - image)


@pytest.mark.skipif(not OPENVINO, reason="OpenVINO is not installed")
def test_openvino_reports_nothing_to_its_makers(tmp_path: Path) -> None:
    """It would keep a number of this machine in the home folder and send it along."""
    compile_one = (
        "import torch; from fend.pipeline import Defence\n"
        "from service.inference import frozen_graph, openvino_graph\n"
        "served = frozen_graph.Served(Defence(torch.nn.Identity(), torch.nn.Flatten()))\n"
        "openvino_graph.compiled(served, torch.rand(1, 4, 4))(1)"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "CI": ""}
    subprocess.run([sys.executable, "-c", compile_one], env=environment, check=True, timeout=120)
    assert not list(tmp_path.iterdir())


def test_an_engine_that_is_not_installed_is_told(
    app_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [])  # as where it is not installed
    settings = app_settings.model_copy(update={"engine": "openvino"})
    with pytest.raises(Invalid, match=r"fend\[openvino\]"):
        ModelLoader(settings, Metrics()).open()
