"""Compares every kind of read with plain Hugging Face, and the grid with the image itself."""

from probe.verification.parity import verify
from probe.verification.report import Check, Report

__all__ = ["Check", "Report", "verify"]
