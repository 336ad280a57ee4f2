"""Data sets that administrators upload for audits."""
