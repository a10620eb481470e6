"""SAM networks: loading them, and prompting them."""
