"""A shelf of recipes, registered through the entry-point group `fseg.recipes` like anyone else's."""
