"""Our own app with the model replaced by a constant: what everything around the model costs.

python -m benchmarks.serving_peers.null
"""

from collections.abc import Sequence

import torch
import typer

from service.cli import serve
from service.inference.engine import Answer, Engine, Question

ANSWER = Answer(torch.zeros(1, 28, 28), [0.91] + [0.01] * 9, [0.91] + [0.01] * 9, 0.0)


async def _constant(_engine: Engine, questions: Sequence[Question]) -> list[Answer]:
    return [ANSWER] * len(questions)


if __name__ == "__main__":
    Engine.infer = _constant  # type: ignore[method-assign, assignment]
    typer.run(serve)
