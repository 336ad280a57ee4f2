"""What can be proved of an answer: interval bounds (L-inf) and randomised smoothing (L2)."""
