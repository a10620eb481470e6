"""Label maps as arrays: labels with a meaning of their own, and how two maps are compared."""
