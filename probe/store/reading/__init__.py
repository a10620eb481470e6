"""From a store on disk to activations, matrices and batches."""
