"""The commands that work on data sets: eval, merge, ablate, compare, calibrate and heads."""
