"""Passes that the sequences of one session share, and those of several sessions: answers and traces."""
