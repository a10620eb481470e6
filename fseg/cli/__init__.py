"""The command `fseg`."""
