"""Figures and label maps."""
