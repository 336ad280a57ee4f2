"""Data sets that were uploaded to be audited: received, checked, kept."""
