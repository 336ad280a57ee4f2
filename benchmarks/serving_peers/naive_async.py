"""FastAPI as it is often written: everything inside `async def`."""

from typing import Any

from fastapi import FastAPI, Request

from benchmarks.serving_peers.pipeline import Pipeline

app = FastAPI()
pipeline = Pipeline()


@app.post("/classify")
async def classify(request: Request) -> dict[str, Any]:
    [answer] = pipeline.infer([pipeline.decode(await request.body())])
    return answer
