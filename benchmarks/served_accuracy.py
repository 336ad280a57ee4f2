"""Every MNIST test image as a PNG file through `POST /v1/classify` of a running service.

    make serve                            # in one terminal
    python -m benchmarks.served_accuracy  # in another

Prints the accuracy that a client sees, and whether each served answer is the one that the bundle
gives offline.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import torch
from rich.progress import track

from benchmarks.common import parser_of
from fend.bundles import load_bundle
from fend.datasets import ImageSet, load
from fend.images import encode_png


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="mnist")
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    images = load("mnist:test", options.data_dir)
    offline = _offline(options.models_dir / options.model, images)
    pngs = [encode_png(images.pixels(slice(i, i + 1))[0]) for i in range(len(images))]
    started = time.perf_counter()
    served = asyncio.run(_serve_all(options.url, options.model, pngs, options.clients))
    wall_s = time.perf_counter() - started
    answers = torch.tensor([answer["index"] for answer in served])
    bare = torch.tensor([answer["undefended"]["index"] for answer in served])
    flagged = sum(answer["suspicion"]["flagged"] for answer in served)
    print(f"model                    {served[0]['model']['name']} {served[0]['model']['version']}")
    print(f"images                   {len(images)} as PNG, {options.clients} clients")
    print(f"accuracy                 {100 * _share(answers == images.labels):.2f} %")
    print(f"accuracy, no denoiser    {100 * _share(bare == images.labels):.2f} %")
    print(f"differ from offline      {int((answers != offline[0]).sum())}")
    print(f"differ, no denoiser      {int((bare != offline[1]).sum())}")
    print(f"flagged as suspicious    {100 * flagged / len(images):.2f} %")
    print(f"wall time                {wall_s:.1f} s, {len(images) / wall_s:.0f} images/s")


def _offline(folder: Path, images: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers of the bundle itself, with and without the denoiser."""
    defence = load_bundle(folder).defence
    defended, bare = [], []
    with torch.inference_mode():
        for indices in torch.split(torch.arange(len(images)), 250):
            answers = defence.answer(images.pixels(indices))
            defended.append(answers.logits.argmax(1))
            bare.append(answers.undefended_logits.argmax(1))
    return torch.cat(defended), torch.cat(bare)


async def _serve_all(url: str, model: str, pngs: list[bytes], clients: int) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = [{}] * len(pngs)
    queue: Iterator[int] = iter(track(range(len(pngs)), "POST /v1/classify"))

    async def client(http: httpx.AsyncClient) -> None:
        for index in queue:
            response = await http.post(
                "/v1/classify",
                params={"model": model},
                content=pngs[index],
                headers={"Content-Type": "image/png"},
            )
            response.raise_for_status()
            answers[index] = response.json()

    async with httpx.AsyncClient(base_url=url, timeout=30) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    return answers


def _share(flags: torch.Tensor) -> float:
    return float(flags.double().mean())


if __name__ == "__main__":
    main()
