"""Experiments: many edited runs that together answer one question."""
