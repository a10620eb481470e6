"""The images of a run, distributed over processes."""
