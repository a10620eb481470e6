"""Activations of many items, kept on disk: collected once, read in part. docs/store.md is the format."""
