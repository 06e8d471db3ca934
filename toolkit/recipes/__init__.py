"""Recipes: what `fptk train` and `fptk run` do, as validated YAML."""
