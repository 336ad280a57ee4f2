"""Every command of the library; the service and the training add theirs by entry point."""
