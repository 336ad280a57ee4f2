"""Networks that a bundle can name, one a file."""
