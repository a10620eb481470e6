"""Many inputs: iterators in order, in batches whose size is found, the next one prepared in a thread meanwhile."""
