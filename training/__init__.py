"""Offline training: data -> classifier -> denoiser -> bundle."""
