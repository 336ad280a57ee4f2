"""HTTP by hand, for what no client library would send."""

import socket
from typing import Any


def connect(server: Any) -> socket.socket:
    """A connection to a service of `run_server`."""
    host, port = server.base_url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def all_of(connection: socket.socket) -> bytes:
    """All that the server sends until it closes; a reset counts as closing."""
    received = b""
    while True:
        try:
            chunk = connection.recv(65536)
        except ConnectionResetError:
            return received
        if not chunk:
            return received
        received += chunk


def exchange(server: Any, *parts: bytes) -> bytes:
    """What comes back for these bytes until the server closes; sending may be cut short."""
    with connect(server) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except OSError:
            pass  # the answer may be there all the same
        return all_of(connection)


def statuses(answers: bytes) -> list[int]:
    """The status of each answer."""
    return [int(rest[:3]) for rest in answers.split(b"HTTP/1.1 ")[1:]]
