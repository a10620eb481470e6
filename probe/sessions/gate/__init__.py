"""A gate on the first word of an answer, and the tokens that begin a word."""
