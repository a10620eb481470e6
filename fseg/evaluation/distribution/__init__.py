"""The images of a run, shared among processes."""
