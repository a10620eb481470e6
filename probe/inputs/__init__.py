"""What a model takes: images, prompts and their encodings."""
