"""What a model is, and what can be read from it and where: a report to print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from probe.backbones import Backbone
from probe.inputs.processors import Processor
from probe.inputs.prompt import takes_videos
from probe.many.generating import equal_prompts_reason
from probe.notebook import Html, table
from probe.runtime import Runtime
from probe.sessions.policies import offered_policies
from probe.tracing.modules import Modules, text_config


@dataclass(frozen=True, repr=False)
class Inspection:
    """The report of `model.inspect()`: rows of (what, value), as they print."""

    rows: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.rows)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {value}" for name, value in self.rows[:2])
        more = len(self.rows) - 2
        return f"Inspection({shown}, {more} more row{'s' * (more != 1)}; print it)"

    def _repr_html_(self) -> Html:
        return table(self.rows)

    def __getitem__(self, name: str) -> str:
        return dict(self.rows)[name]


def inspect_model(runtime: Runtime, processor: Processor | None) -> Inspection:
    """What a model is, from its configuration and the modules that were found."""
    model, modules, backbone = runtime.model, runtime.modules, runtime.backbone
    if not runtime.has_decoder:
        return Inspection(_encoder_rows(runtime, has_processor=processor is not None))
    text = text_config(model)
    attention = [path for path in modules.attention if path]
    heads = getattr(text, "num_attention_heads", "?")
    has_image_tokens = modules.image_token_id is not None or type(backbone).leading is not Backbone.leading
    rows = (
        ("family", f"{model.config.model_type} ({type(model).__name__})"),
        ("layers", f"{len(modules.layers)} decoder blocks, hidden_states 0 (embeddings) to {len(modules.layers)}"),
        ("heads", f"{heads}, {getattr(text, 'num_key_value_heads', None) or heads} for keys and values"),
        ("hidden size", str(text.hidden_size)),
        ("vision blocks", f"{len(modules.vision_blocks)}" if modules.vision_blocks else "none found"),
        ("image token", "none" if modules.image_token_id is None else f"id {modules.image_token_id}"),
        ("grid", _grid(backbone)),
        ("videos", _videos(backbone, processor)),
        ("prefix sharing", _sharing(runtime)),
        ("batches", _batches(runtime)),
        ("processor", "loaded" if processor is not None else "none: run() takes plain encodings"),
        ("kernel", str(model.config._attn_implementation)),
        ("Hidden", _pattern(modules.layers)),
        (
            "Attention",
            f"{_pattern(attention)} ({len(attention)} of {len(modules.layers)} blocks)" if attention else "no attention found",
        ),
        ("AttentionOutput", _parts([part.attention for part in modules.parts])),
        ("MLPOutput", _parts([part.mlp for part in modules.parts])),
        ("HeadOutput", _parts([part.projection and f"input of {part.projection}" for part in modules.parts])),
        ("Queries", _call(modules)),
        ("Keys", _call(modules, modules.other_keys)),
        ("Values", _call(modules, modules.other_keys)),
        ("Vision", _pattern(modules.vision_blocks) if modules.vision_blocks else "not available"),
        ("VisionAttention", _parts(modules.vision_attention) if modules.vision_blocks else "not available"),
        ("Projected", f"input of {modules.layers[0]} at the image tokens" if has_image_tokens else "not available"),
        ("Logits", "output of the model"),
    )
    return Inspection(
        tuple((what, f"not available: {modules.unreadable[what]}" if what in modules.unreadable else row) for what, row in rows)
    )


_NO_INTERFACE = "no block calls transformers' attention interface"


def _encoder_rows(runtime: Runtime, *, has_processor: bool) -> tuple[tuple[str, str], ...]:
    """The report of a vision encoder."""
    model, modules = runtime.model, runtime.modules
    absent = tuple((read, f"not available: {reason}") for read, reason in modules.unreadable.items())
    return (
        ("family", f"{model.config.model_type} ({type(model).__name__}), a vision encoder"),
        ("vision blocks", f"{len(modules.vision_blocks)}, states 0 (embeddings) to {len(modules.vision_blocks)}"),
        ("grid", _grid(runtime.backbone)),
        ("batches", "padded"),
        ("processor", "loaded" if has_processor else "none: run() takes plain encodings"),
        ("kernel", str(model.config._attn_implementation)),
        ("Vision", _pattern(modules.vision_blocks)),
        ("VisionAttention", _parts(modules.vision_attention)),
        *absent,
    )


def _grid(backbone: Backbone) -> str:
    if backbone.has_grid:
        return f"declared by {type(backbone).__name__}"
    if backbone.no_grid_reason:
        return f"none: {backbone.no_grid_reason}"
    return "not declared: maps cannot be folded onto the image"


def _videos(backbone: Backbone, processor: Processor | None) -> str:
    if processor is None:
        return "not known without a processor"
    if not takes_videos(processor):
        return f"none: {type(processor).__name__} prepares none"
    taken = f"taken by {type(processor).__name__}"
    if type(backbone).video_layout is not Backbone.video_layout:
        return f"{taken}, folded to (frame, row, col) by {type(backbone).__name__}"
    return f"{taken}, not folded: {backbone.no_grid_reason or 'no grid is declared'}"


def _sharing(runtime: Runtime) -> str:
    offered, reason = offered_policies(runtime)
    why = reason and f" ({reason})"
    return f"{', '.join(offered) or 'none: each question is asked alone'}{why}"


def _batches(runtime: Runtime) -> str:
    """How many inputs are run together."""
    if runtime.backbone.alone_reason:
        return f"none: many inputs run one by one ({runtime.backbone.alone_reason})"
    reason = equal_prompts_reason(runtime.backbone)
    return f"padded; prompts of equal length alone are answered together ({reason})" if reason else "padded"


def _parts(paths: Sequence[str | None]) -> str:
    """The paths of a part, and how many blocks have it."""
    known = [path for path in paths if path]
    return f"{_pattern(known)} ({len(known)} of {len(paths)} blocks)" if known else "not available"


def _call(modules: Modules, left_out: frozenset[int] = frozenset()) -> str:
    """Where queries, keys and values are.

    Args:
        left_out: blocks whose keys are not the sequence's.
    """
    blocks = [block for block, path in enumerate(modules.attention) if path and block not in modules.attention_without_interface]
    paths = [str(modules.attention[block]) for block in blocks if block not in left_out]
    if paths:
        return f"attention call of {_pattern(paths)}"
    return f"not available: {'no block attends to the sequence alone' if blocks else _NO_INTERFACE}"


def _pattern(paths: tuple[str, ...] | list[str]) -> str:
    """`model.layers.0` and its siblings as `model.layers.{0..31}`."""
    parts = paths[0].split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if number is None or len(paths) == 1:
        return paths[0]
    parts[number] = f"{{{parts[number]}..{paths[-1].split('.')[number]}}}"
    return ".".join(parts)
