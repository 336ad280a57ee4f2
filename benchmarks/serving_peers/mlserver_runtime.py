"""MLServer: a runtime that takes base64 images of the Open Inference Protocol and batches them.

python -m benchmarks.serving_peers.mlserver_runtime PORT
"""

import asyncio
import base64
import json
import os
import sys

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import StringCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving_peers.pipeline import Pipeline


class Runtime(MLModel):
    async def load(self) -> bool:
        self.pipeline = Pipeline()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        texts = StringCodec.decode_input(payload.inputs[0])
        answers = self.pipeline.infer(
            [self.pipeline.decode(base64.b64decode(text)) for text in texts]
        )
        output = StringCodec.encode_output("answers", [json.dumps(answer) for answer in answers])
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    settings = Settings(
        host="127.0.0.1", http_port=int(sys.argv[1]), grpc_port=int(sys.argv[1]) + 1,
        metrics_port=int(sys.argv[1]) + 2, debug=False, use_structured_logging=False,
        parallel_workers=int(os.environ.get("BENCH_WORKERS", "0")),
    )  # fmt: skip
    batching = json.loads(os.environ.get("BENCH_MLSERVER", '{"batch": 64, "time_s": 0.001}'))
    model = ModelSettings(
        name="mnist", implementation=Runtime, parameters=ModelParameters(),
        max_batch_size=batching["batch"], max_batch_time=batching["time_s"],
    )  # fmt: skip
    server = MLServer(settings)
    await server.start([model])


if __name__ == "__main__":
    asyncio.run(main())
