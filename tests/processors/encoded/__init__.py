"""Processors of the families that no other file of `tests.processors` builds: what `encode` needs of them, images as small as they allow."""

from tests.processors.encoded import beside, decoders
from tests.processors.encoded.listing import ENCODED

__all__ = ["ENCODED", "beside", "decoders"]
