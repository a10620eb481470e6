"""Fault campaigns: what happens when files are damaged, processes die and models compute nonsense. `python -m tests.faults`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from tests.faults.campaign import Campaign, Outcome

__all__ = ["Campaign", "Outcome", "campaigns"]


def campaigns() -> list[Campaign]:
    """The campaigns of every module of this package, in the order of the modules' names."""
    found = []
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        if module.name not in ("__main__", "campaign"):
            found += import_module(f"{__name__}.{module.name}").CAMPAIGNS
    return found
