"""What `probe view` reads of an answer."""

from __future__ import annotations

from dataclasses import dataclass

from probe.attribution.likely import LikelyTokens
from probe.errors import InvalidRead, NotRead
from probe.inputs.encoding import Answer
from probe.model import Probe
from probe.tracing.layers import attention_layers
from probe.tracing.reads import Attention, Hidden, Position, Read
from probe.tracing.trace import Trace


@dataclass(frozen=True, eq=False)
class Look:
    """What a page shows of an answer.

    Attributes:
        trace: attention to the image and hidden states, as far as the family gives them.
        likely: the likeliest words of those states; None: none were asked for, or there are none.
        no_words_reason: why there are none.
    """

    trace: Trace
    likely: LikelyTokens | None = None
    no_words_reason: str = ""


def look(model: Probe, answer: Answer, *, lens: bool = True) -> Look:
    """Run an answer with all reads that a page shows. An empty answer is looked at from the prompt's last token.

    Args:
        lens: whether the likeliest words are looked up, three of each state.
    """
    text: Position = "answer" if len(answer.tokens.span("answer")) else -1
    has_image = "image" in answer.tokens.spans
    at: tuple[Position, ...] = ("image", text) if has_image else (text,)
    blocks = _blocks(model) if has_image else ()
    reads: list[Read] = [Hidden("all", at=at), *([Attention(blocks, query=text, key="image")] if blocks else [])]
    trace = model.run(answer, reads)
    if not lens:
        return Look(trace)
    try:
        return Look(trace, model.lens(trace.hidden(at), top=3))
    except (InvalidRead, NotRead) as error:  # states that do not go through the family's head, or have several widths
        return Look(trace, no_words_reason=str(error))


def _blocks(model: Probe) -> tuple[int, ...]:
    """The blocks whose attention to the image tokens can be read."""
    modules = model.modules
    if "Attention" in modules.unreadable:
        return ()
    return tuple(block for block in attention_layers("all", modules) if block not in modules.other_keys)
