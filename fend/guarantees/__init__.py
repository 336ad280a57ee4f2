"""Proofs about answers: interval bounds (L-inf) and randomised smoothing (L2)."""
