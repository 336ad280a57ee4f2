"""The work of an audit: a shard of images in, rows out."""
