"""`fend key`: a new key, and the digest that the service can be configured with in its place."""

import hashlib
import secrets

import typer


def key() -> None:
    """Make a key. Give the first line to whoever may use it, and the second to the service."""
    made = secrets.token_urlsafe(24)
    typer.echo(made)
    typer.echo(f"sha256:{hashlib.sha256(made.encode()).hexdigest()}")
