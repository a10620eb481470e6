"""One image and many questions: the shared prefix and its KV cache."""
