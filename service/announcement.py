"""What is said on the terminal, not in the log, when the service serves."""

import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.api.security import Access
    from service.inference.repository import Repository


def announce(listener: socket.socket, access: "Access", lines: list[str], workers: int = 1) -> None:
    """What a person needs to start; `lines` are those of the models."""
    count = f" with {workers} workers" if workers > 1 else ""
    first = f"Fend serves at {_url(*listener.getsockname()[:2])}{count} (try /docs)"
    if access.generated is not None:
        last = f"  admin  token {access.generated} (made now, shown once)"
    else:
        last = f"  admin  token from {access.admin_source}"
    sys.stderr.write("\n".join([first, *lines, last]) + "\n")
    sys.stderr.flush()


def model_lines(repository: "Repository", default_model: str) -> list[str]:
    """A line for each model."""
    lines = []
    for name, model in repository.serving().items():
        default = "  (default)" if name == default_model else ""
        lines.append(f"  model  {name}  {model.manifest.version}{default}")
    for name, refused in repository.refused().items():
        lines.append(f"  model  {name}  REFUSED: {refused.error}")
    return lines


def own_url(listener: socket.socket) -> str:
    """Where this process reaches itself."""
    host, port = listener.getsockname()[:2]
    return _url({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
