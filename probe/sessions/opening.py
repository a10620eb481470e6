"""Opening: how a session was opened; and Together: other images, whose prefixes may run in the same passes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from probe.encoder import Encoder
from probe.inputs.encoding import Encoding, PreparedImages
from probe.runtime import Runtime
from probe.sessions.prefix import Prefix
from probe.tracing.reads import Read


@dataclass(frozen=True, eq=False)
class Opening:
    """How a session was opened.

    Attributes:
        images: as they were prepared.
        on_device: the same ones, on the model's device.
        keep: reads of the prefix.
        chat, template: of its prompts.
    """

    encoder: Encoder
    images: PreparedImages
    on_device: PreparedImages
    keep: tuple[Read, ...]
    chat: bool
    template: str | None

    def encode(self, question: str) -> Encoding:
        """The prompt of a question."""
        return self.encoder.encode_question(self.on_device, question, chat=self.chat, template=self.template)

    def of(self, images: PreparedImages) -> Opening:
        """Other images, opened in the same way."""
        return replace(self, images=images, on_device=self.encoder.moved_to_device(images))

    def is_like(self, other: Opening) -> bool:
        """Whether another session was opened in the same way, whatever its images."""
        return self.encoder is other.encoder and (self.keep, self.chat, self.template) == (other.keep, other.chat, other.template)


class Together(Protocol):
    """Other images, whose prefixes may run in the same passes. The model's lock is held while it is asked."""

    def take(self, opening: Opening) -> Prefix | None:
        """The prefix of this image, opened so, if it ran with another one; it is given once."""

    def read(self, runtime: Runtime, opening: Opening, question: str, encoding: Encoding, length: int) -> Prefix | None:
        """Run the prefix of this image with those of others; None: it has to run alone.

        Args:
            question: the session's first.
            encoding: its prompt, which the prefix begins.
            length: the prefix's tokens.
        """
