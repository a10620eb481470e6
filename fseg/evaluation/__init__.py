"""Measuring segmentations: the field's metric, and how sure a comparison of two recipes is."""
