"""Routes of Fend's own API."""
