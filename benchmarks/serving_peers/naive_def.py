"""FastAPI as it is often written: `def`, so in its pool of forty threads."""

from typing import Annotated, Any

from fastapi import Body, FastAPI

from benchmarks.serving_peers.pipeline import Pipeline

app = FastAPI()
pipeline = Pipeline()


@app.post("/classify")
def classify(data: Annotated[bytes, Body(media_type="image/png")]) -> dict[str, Any]:
    [answer] = pipeline.infer([pipeline.decode(data)])
    return answer
