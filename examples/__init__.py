"""Published analyses as notebooks, and the one way to execute them."""
