"""Fusions: from hidden states and attention to a response map. One file a fusion."""
