"""What each image format says of itself, read from the bytes before Pillow sees them."""
