"""A model whose Python code lies in its own checkpoint, as models do that transformers does not have yet."""
