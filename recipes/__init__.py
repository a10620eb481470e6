"""Recipes, registered through the entry-point group `fseg.recipes`, as those of any other package."""
