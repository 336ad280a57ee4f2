"""BentoML with adaptive batching.

    bentoml serve benchmarks.serving_peers.bento:Classify --port PORT

Its batches form only of JSON lists and of files in forms; a list of one base64 text is the faster.
"""

import base64
import os
from typing import Any

import bentoml

from benchmarks.serving_peers.pipeline import Pipeline

WORKERS = int(os.environ.get("BENCH_WORKERS", "1"))


@bentoml.service(workers=WORKERS, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Classify:
    def __init__(self) -> None:
        self.pipeline = Pipeline()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def classify(self, images: list[str]) -> list[dict[str, Any]]:
        return self.pipeline.infer(
            [self.pipeline.decode(base64.b64decode(text)) for text in images]
        )
