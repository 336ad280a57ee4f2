"""Fend's library: what is trained, served and attacked. Knows no HTTP, no settings, no clock."""

__version__ = "0.1.0"
