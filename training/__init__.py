"""Offline: data -> adversaries -> losses -> loop -> evaluate -> export."""
