"""How embedded models are trained: what the worlds share. Not part of the wheel."""
