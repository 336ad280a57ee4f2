"""What is minimised: the paper's feature loss, and the losses of adversarial training."""
