"""The living process: HTTP in front of `fend`. It never imports `training` nor torchvision."""
