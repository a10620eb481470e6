"""Data sets: their layouts on disk, classes and label maps."""
