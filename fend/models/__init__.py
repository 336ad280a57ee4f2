"""Architectures, one a file, and the registry that builds them by name."""

from fend.models.registry import ARCHITECTURES, build, parameter_count

__all__ = ["ARCHITECTURES", "build", "parameter_count"]
