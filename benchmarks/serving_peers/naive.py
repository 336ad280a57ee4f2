"""FastAPI as it is often written: everything inside `async def`, or `def` in its thread pool."""

from typing import Annotated, Any

from fastapi import Body, FastAPI, Request

from benchmarks.serving_peers.pipeline import Pipeline

app = FastAPI()
pipeline = Pipeline()


@app.post("/async")
async def classify_async(request: Request) -> dict[str, Any]:
    [answer] = pipeline.infer([pipeline.decode(await request.body())])
    return answer


@app.post("/def")
def classify_def(data: Annotated[bytes, Body(media_type="image/png")]) -> dict[str, Any]:
    [answer] = pipeline.infer([pipeline.decode(data)])
    return answer
