"""Recipes: what `fptk train` and `fptk run` do, as validated YAML."""

from fptk.recipes.recipe import Recipe, differing_keys, list_recipes, recipe_from

__all__ = ["Recipe", "differing_keys", "list_recipes", "recipe_from"]
