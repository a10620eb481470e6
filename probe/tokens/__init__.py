"""Token positions: spans, their text, and where image tokens lie."""
