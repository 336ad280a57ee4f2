"""The services that `benchmarks.serving` compares: each a small file that its own venv runs.

benchmarks/serving_peers/install.sh FOLDER     makes the venvs
"""
