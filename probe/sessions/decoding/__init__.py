"""Decoding of many sequences at once: greedy, with drafts of what they may continue with."""
