"""Recipes: what `fptk train` and `fptk run` do, as validated YAML."""

from fptk.recipes.loading import differing_keys, list_recipes, load_recipe, recipe_from
from fptk.recipes.schema import Recipe

__all__ = ["Recipe", "differing_keys", "list_recipes", "load_recipe", "recipe_from"]
