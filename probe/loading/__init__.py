"""Opening a checkpoint: its files, its devices and dtypes, its model and processor."""
