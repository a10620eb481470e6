"""Reads, and the one traced forward that carries them out."""
