"""From items to a store on disk."""
