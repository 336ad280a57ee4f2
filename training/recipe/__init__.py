"""A recipe: everything that decides what is trained, checked before anything runs."""

from training.recipe.schema import Recipe, RecipeError

__all__ = ["Recipe", "RecipeError"]
