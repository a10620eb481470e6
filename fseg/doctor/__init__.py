"""How much each open reading of the paper moves the maps and prompts of one image."""
