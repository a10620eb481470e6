"""The command `fseg`."""

from fseg.cli.app import main

__all__ = ["main"]
