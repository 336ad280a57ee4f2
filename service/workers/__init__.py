"""Several serving processes on one port: `fend serve --workers N`."""
