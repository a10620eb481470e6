"""What lies in a store's folder, as docs/store.md says it."""
