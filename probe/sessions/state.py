"""SessionState: what a session knows of its image, its prefixes and its answers so far."""

from __future__ import annotations

from collections.abc import Sequence

from probe.encoder import Encoder
from probe.errors import InvalidPolicy, SessionClosed
from probe.inputs.encoding import Encoding
from probe.runtime import Runtime
from probe.sessions.decoding.drafting import Continued, Drafting
from probe.sessions.gate.choice import FirstTokens
from probe.sessions.opening import Opening
from probe.sessions.policies import NO_SHARING
from probe.sessions.prefix import Prefix
from probe.sessions.prefixes import Prefixes
from probe.sessions.shared.passes import completing_not_finite
from probe.tokens.spans import TokenMap
from probe.tracing.edits import Edit
from probe.tracing.reads import Module


class SessionState:
    """What a session knows of its image, its prefixes and its answers so far.

    Args:
        opening: None once the session is closed.
        edits: in force for every question.
        policy: of prefix sharing.
        required: whether it was asked for by name.

    Attributes:
        first_tokens: of the gate's words.
        seen: what followed in the answers so far.
        drafting: how many steps drafts have saved so far.
    """

    def __init__(
        self,
        runtime: Runtime,
        encoder: Encoder,
        opening: Opening,
        prefixes: Prefixes,
        edits: tuple[Edit, ...],
        policy: str,
        *,
        required: bool,
    ) -> None:
        self.runtime, self.encoder, self.prefixes, self.edits = runtime, encoder, prefixes, edits
        self.policy, self._required = policy, required
        self._opening: Opening | None = opening
        self.first_tokens, self.seen, self.drafting = FirstTokens(), Continued(), Drafting()

    def close(self) -> None:
        """Free the image and the prefixes."""
        self._opening = None
        self.prefixes.clear()

    def require_open(self) -> Opening:
        """How the session was opened.

        Raises:
            SessionClosed: it is closed.
        """
        if self._opening is None:
            raise SessionClosed("This session is closed. Open another one with model.open(image).")
        return self._opening

    def encode(self, question: str) -> Encoding:
        """The prompt of a question, with the image tensors of the session's first one.

        Raises:
            SessionClosed: the session is closed.
        """
        opening = self.require_open()
        encoding = opening.encode(question)
        with self.runtime.engine.lock:
            first = self.prefixes.begin(opening, question, encoding)
        return encoding.with_images_of(first)

    def check_edits(self, edits: Sequence[Edit], tokens: Sequence[TokenMap]) -> None:
        """Resolve edits for each sequence before anything runs.

        Raises:
            InvalidEdit, InvalidLayer, NoAttention, SpanNotFound.
        """
        for one in tokens if edits else ():
            self.runtime.resolve_edits(edits, (one,))

    def prefix_of(
        self,
        encodings: Sequence[Encoding],
        tokens: Sequence[TokenMap],
        edits: tuple[Edit, ...],
        *,
        new_tokens: int = 0,
        may_require: bool = True,
    ) -> Prefix | None:
        """The common prefix of all of these, run once under these edits; None: each is run alone.

        Args:
            tokens: of each, as edits name them.
            new_tokens: the most tokens that each may get.
            may_require: whether a policy that was asked for by name has to be kept to.

        Raises:
            InvalidPolicy: they share none, and one is required.
        """
        if self.policy == NO_SHARING or not encodings:
            return None
        if any(isinstance(edit.read, Module) for edit in edits):
            prefix, reason = None, "edits of a Module need each question alone. Open the session without a policy."
        else:
            with self.runtime.engine.lock, completing_not_finite(self.runtime, encodings[:1], edits):
                prefix, reason = self.prefixes.common(encodings, tokens, new_tokens, edits)
        if prefix is None and may_require and self._required:
            raise InvalidPolicy(f"policy={self.policy!r}: {reason}")
        return prefix
