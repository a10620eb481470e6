"""Capturing: the tensors that a forward leaves, and where they are found."""
