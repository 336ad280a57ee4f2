"""Architectures, one a file, and the registry that builds them by name."""

from fend.models.registry import ARCHITECTURES, UnknownArchitecture, build, parameter_count

__all__ = ["ARCHITECTURES", "UnknownArchitecture", "build", "parameter_count"]
