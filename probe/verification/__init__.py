"""Every kind of read against plain Hugging Face, and the grid against the image itself."""
