"""Figures of a finished run, and the tables of several."""
