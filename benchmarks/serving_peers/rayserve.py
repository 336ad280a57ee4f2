"""Ray Serve with `@serve.batch`, one replica a core.

python -m benchmarks.serving_peers.rayserve PORT
"""

import os
import sys
import time
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.serving_peers.pipeline import Pipeline

REPLICAS = int(os.environ.get("BENCH_WORKERS", "1"))


@serve.deployment(
    num_replicas=REPLICAS, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1}
)
class Classify:
    def __init__(self) -> None:
        self.pipeline = Pipeline()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.0)
    async def infer(self, bodies: list[bytes]) -> list[dict[str, Any]]:
        return self.pipeline.infer([self.pipeline.decode(data) for data in bodies])

    async def __call__(self, request: Request) -> dict[str, Any]:
        answer: dict[str, Any] = await self.infer(await request.body())
        return answer


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Classify.bind(), name="bench", route_prefix="/classify")
    while True:
        time.sleep(3600)
