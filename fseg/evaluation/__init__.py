"""Evaluation of recipes on data sets: the field's metrics, resumable runs, and the paper's tables."""
