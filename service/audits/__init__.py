"""Attacks on what is served: accepted, run in a process of their own, kept, followed."""
