"""Measurements, each against something that a user would otherwise do, in one process: `python -m tests.benchmarks --help`."""
