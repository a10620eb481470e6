"""Edits of a generation: its first pass has the prompt, each later one a new token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from probe.errors import InvalidEdit
from probe.tokens.spans import Span, TokenMap
from probe.tracing.edits.kinds import Edit
from probe.tracing.edits.plan import EditPlan
from probe.tracing.modules import Modules
from probe.tracing.reads import Attention, Keys, Module, Projected, StateRead, Values, Vision, as_positions
from probe.tracing.resolving import token_indices
from probe.tracing.sites import Step
from probe.tracing.slots import SequenceSlot

_UNKNOWN = -1  # in place of the id of a token that was generated

_UNFOLLOWED = ("assistant_model", "prompt_lookup_num_tokens", "prefill_chunk_size")


def tokens_with_answer(tokens: TokenMap, prompt_length: int, ids: Sequence[int]) -> TokenMap:
    """The tokens of a sequence while its answer is generated: those after the prompt are the span "answer"; there may be none yet."""
    answer = Span(tuple(range(prompt_length, len(ids))), "answer")
    spans = {name: span for name, span in tokens.spans.items() if name not in ("answer", "end")}
    return replace(tokens, ids=tuple(ids), spans=spans | {"answer": answer})


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


def changes_before(edit: Edit, tokens: TokenMap, prompt_length: int, length: int) -> bool:
    """Whether an edit changes something in the first tokens of a prompt.

    Args:
        length: of that beginning.
    """
    read = edit.read
    if isinstance(read, Attention):
        at = as_positions(read.query, "query")
    elif isinstance(read, (StateRead, Module)):
        at = as_positions(read.at, "at")
    else:
        return True
    known = tokens_with_answer(tokens, prompt_length, tokens.ids)
    return any(position < length for position in token_indices(known, at))


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
