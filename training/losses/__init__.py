"""Losses: the paper's feature loss, and those of adversarial training."""
