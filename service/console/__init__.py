"""The page at `/`: a router and the files that a browser loads, nothing from elsewhere."""
