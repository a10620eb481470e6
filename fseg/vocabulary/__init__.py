"""Class names, and the questions that are asked about them."""
