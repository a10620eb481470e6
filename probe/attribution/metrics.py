"""Metrics: one number of the logits, of which attribution, gradients and causal traces ask where it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import InvalidRead, NotFinite
from probe.inputs.encoding import Encoding
from probe.runtime import Runtime
from probe.tokens.integers import as_int
from probe.tokens.spans import TokenMap
from probe.tracing.modules import text_config
from probe.tracing.reads import Logits
from probe.tracing.trace import Trace


@dataclass(frozen=True)
class TokenDifference:
    """The difference of two tokens' logits.

    Attributes:
        plus, minus: token ids.
        at: the position whose logits are meant: it predicts the token after it.

    >>> difference = probe.TokenDifference(plus=273, minus=298)
    >>> logits = model.run(model.encode(image, "Is there a cat in the image?"), probe.Logits(at=-1)).logits().data
    >>> float(difference(logits)) > 0
    True
    """

    plus: int
    minus: int
    at: int = -1

    def __call__(self, logits: Float[Tensor, "*rest vocabulary"]) -> Float[Tensor, "*rest"]:
        """logit(plus) - logit(minus), float32."""
        return logits[..., self.plus].float() - logits[..., self.minus].float()


@dataclass(frozen=True)
class LogitDifference:
    """How much more likely one word is than another as the next one: logit(plus) - logit(minus).

    Attributes:
        plus, minus: words of one token each, as an answer begins with them; or token ids.
        at: the position whose logits are meant; -1 is the last token.

    >>> probe.LogitDifference("yes", "No").of(model.encode(image, "Is there a cat?"))
    TokenDifference(plus=273, minus=298, at=-1)
    """

    plus: str | int
    minus: str | int
    at: int = -1

    def of(self, encoding: Encoding | None) -> TokenDifference:
        """The metric in the tokens of one prompt.

        Args:
            encoding: in whose context words are tokenised; None: plain encodings, for which only token ids are taken.

        Raises:
            InvalidRead: a word of several tokens, or without a processor.
        """
        return TokenDifference(_token_id(self.plus, encoding), _token_id(self.minus, encoding), self.at)


def differences_of_rows(
    metric: LogitDifference | TokenDifference, encoding: object, rows: Sequence[TokenMap], runtime: Runtime
) -> tuple[TokenDifference, ...]:
    """The metric in each row of a batch, `at` counted from the row's first token.

    Args:
        encoding: of the rows; words need one of `encode()`.

    Raises:
        InvalidRead: another metric, a word of several tokens, or a token id that the model does not have.
        SpanNotFound: a position beyond a row.
    """
    if not isinstance(metric, (LogitDifference, TokenDifference)):
        raise InvalidRead(f"A difference of two logits was expected, such as probe.LogitDifference('yes', 'No'); got {metric!r}.")
    known = encoding if isinstance(encoding, Encoding) else None
    difference = metric.of(known) if isinstance(metric, LogitDifference) else metric
    vocabulary = int(text_config(runtime.model).vocab_size)
    for token in (difference.plus, difference.minus):
        if not 0 <= token < vocabulary:
            raise InvalidRead(f"{metric!r}: there is no token {token}; this model has tokens 0 to {vocabulary - 1}.")
    if as_int(difference.at) is None:
        raise InvalidRead(f"{metric!r}: at= takes one position, such as -1 for the last token.")
    return tuple(replace(difference, at=row.resolve(difference.at)[0]) for row in rows)


def value_of_trace(metric: TokenDifference | Callable[[Trace], Tensor | float], trace: Trace) -> Float[Tensor, ""]:
    """One number of a trace of one row: a function's, or the difference of the logits that were read.

    Raises:
        InvalidRead: the function returned something else than one number.
        NotFinite: the number is NaN or infinite.
    """
    if isinstance(metric, TokenDifference):
        value: object = metric(trace[Logits(at=metric.at)].data[0, 0])
    else:
        value = metric(trace)
    if not isinstance(value, (Tensor, int, float, np.number)) or (isinstance(value, Tensor) and value.numel() != 1):
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise InvalidRead(f"The metric returned {got}. Return one number of a Trace, such as float(trace.logits().data[0, -1, 273]).")
    number = torch.as_tensor(value).detach().float().reshape(()).cpu()
    if not bool(torch.isfinite(number)):
        raise NotFinite(f"The metric is {float(number)}.")
    return number


def _token_id(word: str | int, encoding: Encoding | None) -> int:
    number = as_int(word)
    if number is not None:
        return number
    if not isinstance(word, str):
        raise InvalidRead(f"LogitDifference({word!r}): name a word, such as 'yes', or a token id.")
    if encoding is None:
        raise InvalidRead(f"LogitDifference({word!r}): a word needs an encoding of encode(); with a plain one, name token ids.")
    tokens = encoding.with_answer(word).tokens
    positions = tokens.spans["answer"].positions
    if len(positions) != 1:
        pieces = [tokens.decode([tokens.ids[position]]) if tokens.decode else tokens.ids[position] for position in positions]
        raise InvalidRead(
            f"LogitDifference({word!r}): the word is {len(positions)} tokens, {pieces}. Name a word of one token, or a token id."
        )
    return tokens.ids[positions[0]]
