"""What the embedded worlds share."""
