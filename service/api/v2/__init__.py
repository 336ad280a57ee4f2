"""The Open Inference Protocol, version 2, which tritonclient, KServe and other tools speak.

    infer.py      read --> admit --> pictures.py --> answering --> outputs.py --> send
    protocol.py   the JSON of requests and answers
    binary.py     tensors as bytes
    metadata.py   what the server and its models are, and whether they are ready
    repository.py which models there are

Errors are `{"error": "..."}` here; `service/api/problems.py` decides that by the path.
"""
