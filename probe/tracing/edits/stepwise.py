"""Edits of a generation: its first pass has the prompt, each later one a new token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

from probe.errors import InvalidEdit
from probe.tokens.integers import as_int
from probe.tokens.spans import Span, TokenMap
from probe.tracing.edits.kinds import Edit
from probe.tracing.edits.plan import EditPlan
from probe.tracing.modules import Modules
from probe.tracing.reads import Attention, Keys, Module, Position, Projected, StateRead, Values, Vision, as_positions
from probe.tracing.resolving import token_indices
from probe.tracing.sites import Step
from probe.tracing.slots import SequenceSlot

_UNKNOWN = -1  # in place of the id of a token that was generated

_UNFOLLOWED = ("assistant_model", "prompt_lookup_num_tokens", "prefill_chunk_size")


@dataclass(frozen=True)
class GrowingTokens(TokenMap):
    """The tokens of a sequence while its answer is generated. Negative positions count from the end of what the generation began with.

    Attributes:
        begun: how many tokens that were.
    """

    begun: int = 0

    def resolve(self, position: str | int | Span) -> tuple[int, ...]:
        """See `TokenMap.resolve`."""
        number = None if isinstance(position, (str, Span)) else as_int(position)
        return super().resolve(number + self.begun if number is not None and -self.begun <= number < 0 else position)


def tokens_with_answer(tokens: TokenMap, prompt_length: int, ids: Sequence[int]) -> GrowingTokens:
    """The tokens of a sequence while its answer is generated: those after the prompt are the span "answer"; there may be none yet.

    Args:
        tokens: what the generation begins with.
        ids: so far.
    """
    answer = Span(tuple(range(prompt_length, len(ids))), "answer")
    spans = {name: span for name, span in tokens.spans.items() if name not in ("answer", "end")} | {"answer": answer}
    known = {part.name: getattr(tokens, part.name) for part in fields(TokenMap)}
    return GrowingTokens(**(known | {"ids": tuple(ids), "spans": spans}), begun=len(tokens))


@dataclass(frozen=True)
class GenerationEdits:
    """The edits of one generation.

    Attributes:
        edits: as the user gave them.
        tokens: of the prompt, with the words that the answer begins with.
        prompt_length: where the answer begins.
        rows: sequences that are generated together, all from this prompt.
        cached: whether later passes have the new token alone.
        resolve: resolves edits for some sequences.
    """

    edits: Sequence[Edit]
    tokens: TokenMap
    prompt_length: int
    rows: int
    cached: bool
    resolve: Callable[[Sequence[Edit], Sequence[TokenMap]], EditPlan]
    modules: Modules

    def steps(self, number: int) -> list[Step]:
        """The steps of a pass: 0 has the prompt, k the k-th new token."""
        edits = self.edits if number == 0 or not self.cached else [edit for edit in self.edits if continues(edit, self.modules)]
        if not edits:
            return []
        ids = (*self.tokens.ids, *[_UNKNOWN] * number)
        tokens = tokens_with_answer(self.tokens, self.prompt_length, ids)
        shared = len(ids) - 1 if number and self.cached else 0
        slots = [SequenceSlot(row, 0, shared) for row in range(self.rows)]
        return self.resolve(edits, [tokens] * self.rows).steps(slots)


def continues(edit: Edit, modules: Modules) -> bool:
    """Whether an edit does something in the passes of new tokens."""
    read = edit.read
    if isinstance(read, (Attention, Keys, Values)):
        return True
    if isinstance(read, Module):
        decoder = modules.layers[0].rsplit(".", 2)[0]
        return read.at is None and not read.path.startswith(modules.vision or "\n") and f"{read.path}.".startswith(f"{decoder}.")
    at = as_positions(read.at, "at") if isinstance(read, StateRead) else ("image",)
    return at is None or "answer" in at


def after_image(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """The edits that may change something in a pass whose image is in the cache already."""
    return tuple(edit for edit in edits if not isinstance(edit.read, (Vision, Projected)))


PrefixChange = tuple[Edit, tuple[tuple[tuple[int, int], ...], ...]]
"""An edit that changes something in a prefix, and the (number, position) pairs that it changes there, of each axis of its read."""


def change_before(edit: Edit, tokens: TokenMap, length: int) -> PrefixChange | None:
    """What an edit changes in the first tokens of a sequence; None: nothing. Of equal changes the prefixes are equal, too.

    Args:
        length: of that beginning.
    """
    read = edit.read
    asked: tuple[tuple[Position, ...] | None, ...]
    if isinstance(read, Attention):
        asked = (as_positions(read.query, "query"), as_positions(read.key, "key"))
    elif isinstance(read, (StateRead, Module)):
        asked = (as_positions(read.at, "at"),)
    else:
        return edit, ()
    axes = [
        # The number of a position says which part of an operand is its own.
        tuple((0 if edit.operand is None else number, position) for number, position in enumerate(indices) if position < length)
        for indices in (token_indices(tokens, at) for at in asked)
    ]
    return (edit, tuple(axes)) if axes[0] else None


def changes_before(edits: Sequence[Edit], tokens: TokenMap, length: int) -> tuple[PrefixChange, ...]:
    """What edits change in the first tokens of a sequence."""
    return tuple(change for edit in edits if (change := change_before(edit, tokens, length)) is not None)


def sequences_of(settings: Mapping[str, object], defaults: object) -> tuple[int, bool]:
    """How many sequences a generation runs together, and whether it uses a cache.

    Raises:
        InvalidEdit: a way of generating whose passes have more than one new token.
    """

    def setting(name: str) -> object:
        config = settings.get("generation_config", defaults)
        value = settings.get(name)
        return getattr(config, name, None) if value is None else value

    for name in _UNFOLLOWED:
        if setting(name):
            raise InvalidEdit(f"{name}={setting(name)!r}: its passes have several new tokens, which edits do not follow. Leave it out.")
    beams, samples = setting("num_beams") or 1, setting("num_return_sequences") or 1
    assert isinstance(beams, int), "Hugging Face's setting"
    assert isinstance(samples, int), "Hugging Face's setting"
    return max(beams, samples), setting("use_cache") is not False
