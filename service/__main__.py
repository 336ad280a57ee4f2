"""`python -m service`: the same as `fend serve`."""

import typer

from service.cli import serve

if __name__ == "__main__":
    typer.run(serve)
