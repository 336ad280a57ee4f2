"""LitServe, in the configuration that the environment names.

python -m benchmarks.serving_peers.lit PORT
"""

import json
import os
import sys
from typing import Annotated, Any

import litserve as ls
from fastapi import Body
from torch import Tensor

from benchmarks.serving_peers.pipeline import Pipeline


class Api(ls.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.pipeline = Pipeline()

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/png")]) -> Tensor:
        return self.pipeline.decode(request)

    def batch(self, inputs: list[Tensor]) -> list[Tensor]:
        return inputs

    def predict(self, x: Any) -> Any:
        return self.pipeline.infer(x) if isinstance(x, list) else self.pipeline.infer([x])[0]

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    given = json.loads(os.environ.get("BENCH_LIT", "{}"))
    api = Api(
        max_batch_size=given.get("batch", 1),
        batch_timeout=given.get("timeout_s", 0.0),
        api_path="/classify",
    )
    server = ls.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=given.get("workers", 1),
        fast_queue=given.get("fast_queue", False),
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        generate_client_file=False,
        log_level="warning",
        num_api_servers=1,
        access_log=False,
    )
