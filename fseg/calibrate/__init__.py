"""Calibration: layers, alpha and beta of Eq. 3 and 4 for a backbone that nobody has tuned, from images with ground truth."""
