"""How the embedded models of the sticker world were trained. Not part of the wheel."""
