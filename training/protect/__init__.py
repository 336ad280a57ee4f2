"""`fend protect`: a denoiser in front of a classifier of photographs, in one command."""
