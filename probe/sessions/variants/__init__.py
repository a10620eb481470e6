"""Variants: many edited runs of one input, which go on from the states and the KV cache of its unedited run."""

from probe.sessions.variants.running import run_variants

__all__ = ["run_variants"]
