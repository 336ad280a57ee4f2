"""Where a classifier comes from that is not trained here."""
