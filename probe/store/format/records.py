"""The parts of a shard's JSON file; docs/store.md explains each key."""

from __future__ import annotations

from typing import NotRequired, TypedDict

Runs = list[list[int]]
"""Integers as runs [start, stop]."""


class GridRecord(TypedDict):
    """A `Grid`."""

    name: str
    rows: int
    cols: int
    tokens: Runs
    box: list[float]
    image_size: list[int]
    row_shares: list[list[float]]
    col_shares: list[list[float]]


class LayoutRecord(TypedDict):
    """An `ImageLayout`; with `frames` a `VideoLayout`."""

    grids: list[GridRecord]
    separators: Runs
    no_grid_reason: NotRequired[str]
    shown: NotRequired[GridRecord | None]
    frames: NotRequired[list[list[int]]]


class ReadRecord(TypedDict):
    """One item's activation of a read: `layout` or `no_grid` says where its tokens lie."""

    shape: list[int]
    coords: dict[str, Runs]
    layout: NotRequired[int | None]
    no_grid: NotRequired[str]


class ContextRecord(TypedDict):
    """How the tokens of a sequence are named, and what was read there."""

    tokens: int
    family: str
    spans: dict[str, Runs]
    images: list[Runs]
    layouts: list[int | None]
    videos: list[Runs]
    video_layouts: list[int | None]
    reads: list[ReadRecord]


class ItemRecord(TypedDict):
    """An item: with an `error` if it failed, else with all else."""

    id: str
    labels: dict[str, object]
    prompt: NotRequired[str]
    answer: NotRequired[str | None]
    image: NotRequired[list[str]]
    context: NotRequired[int]
    error: NotRequired[str]


class TensorsRecord(TypedDict):
    """The shard's safetensors file."""

    bytes: int
    sha256: str
