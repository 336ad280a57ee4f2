"""The stages of a training, each with its own section of the recipe."""
