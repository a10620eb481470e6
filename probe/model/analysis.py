"""The methods of `Probe` that ask where an answer comes from: the logit lens, many edited runs, attribution, gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from probe.attribution.decomposition import Attribution, attribute_logits
from probe.attribution.gradients import Method, Metric, gradients
from probe.attribution.lens import likely_tokens, word_lens
from probe.attribution.likely import LikelyTokens
from probe.attribution.metrics import LogitDifference, TokenDifference, differences_of_rows, value_of_trace
from probe.attribution.words import Word
from probe.encoder import Encoder
from probe.errors import InvalidEdit, InvalidRead
from probe.inputs.encoding import Encoding
from probe.inputs.processors import tokenizer_of
from probe.runtime import Runtime
from probe.sessions.variants import run_variants
from probe.tracing.activation import Activation
from probe.tracing.edits import Edit
from probe.tracing.edits.kinds import Operand
from probe.tracing.edits.plan import check_edits
from probe.tracing.reads import Logits, Read, as_reads
from probe.tracing.trace import Trace


class Analysis:
    """What `Probe` can say of a model's states and answers.

    Attributes:
        runtime: runs the model.
        encoder: turns text into tokens.
    """

    runtime: Runtime
    encoder: Encoder

    @overload
    def lens(
        self, activation: Activation, words: Word | Sequence[Word], *, normed: bool | None = None, logits: bool = False
    ) -> Activation: ...

    @overload
    def lens(self, activation: Activation, *, top: int, normed: bool | None = None) -> LikelyTokens: ...

    def lens(
        self,
        activation: Activation,
        words: Word | Sequence[Word] | None = None,
        *,
        top: int | None = None,
        normed: bool | None = None,
        logits: bool = False,
    ) -> Activation | LikelyTokens:
        """The logit lens: what the model would say next, if these hidden states were its last ones.

        The states go through the final norm, unless they are after it already, and the model's own head, with all that the family does to
        the logits. For the last layer it equals `log_softmax` of Hugging Face's logits.

        Args:
            activation: hidden states of any layers, positions and heads' axes, with the axis `feature`.
            words: words that are one token each, the one that they are in running text (" cat" for "cat"); or token ids.
            top: instead of words, how many of the likeliest tokens.
            normed: whether the states are after the final norm; None: as the activation says, `Activation.normed`.
            logits: of words, the logits themselves: log-probabilities without the logarithm of the softmax's sum.

        Returns:
            float32 log-probabilities (or logits), with the activation's axes and an axis `word`, the last, instead of `feature`; the tokens taken are
            its coordinates. With `top`: `LikelyTokens`.

        Raises:
            InvalidRead: a word of several tokens, states that are not the decoder's, or it is not known whether they are normed.
            NotFinite: the logits hold NaN or infinity.

        >>> trace = model.run(model.encode(image, "Is there a cat?"), probe.Hidden(layers=[4, 8], at="image"))
        >>> model.lens(trace.hidden(), words=("cat", "red")).sel(layer=4, word="cat").grid()
        Activation(batch=1, row=14, col=14; float32)
        """
        if (words is None) == (top is None):
            raise InvalidRead("lens() takes words=, such as words=('cat', 'dog'), or top=, such as top=5: one of them.")
        self.runtime.require_decoder("lens")
        processor = self.encoder.processor
        tokenizer = None if processor is None else tokenizer_of(processor)
        if words is not None:
            return word_lens(self.runtime, tokenizer, activation, words, normed, logits)
        assert top is not None
        return likely_tokens(self.runtime, tokenizer, activation, top, normed)

    @overload
    def run_variants(
        self, encoding: Encoding | Mapping[str, Tensor], reads: Iterable[Read] | Read, variants: Iterable[Iterable[Edit] | Edit]
    ) -> list[Trace]: ...

    @overload
    def run_variants(
        self,
        encoding: Encoding | Mapping[str, Tensor],
        reads: Iterable[Read] | Read = (),
        variants: Iterable[Iterable[Edit] | Edit] = (),
        *,
        metric: LogitDifference | TokenDifference | Callable[[Trace], Tensor | float],
    ) -> Float[Tensor, "variant"]: ...

    def run_variants(
        self,
        encoding: Encoding | Mapping[str, Tensor],
        reads: Iterable[Read] | Read = (),
        variants: Iterable[Iterable[Edit] | Edit] = (),
        *,
        metric: LogitDifference | TokenDifference | Callable[[Trace], Tensor | float] | None = None,
    ) -> list[Trace] | Float[Tensor, "variant"]:
        """Many edited runs of one input: for each variant the Trace that `run(encoding, reads, edits=variant)` gives.

        The input is run once without edits. A variant then costs only what lies behind its first edit: its tokens from the first edited
        position on, and the decoder blocks from the first edited one on; variants with the same first block share passes. What lies before
        is the unedited run's, whose tensors the traces share: clone what you write to.

        Edits of the vision tower or of a `Module` run whole. So do all variants in families that share no prefix (`inspect()` says why), and
        edits within the image in families whose image tokens attend to later ones or have positions by row and column; a warning says so.

        Args:
            encoding, reads: as in `run`.
            variants: the edits of each run; none for the unedited one.
            metric: makes one number of each variant, whose trace is then not held: a difference of logits, which needs no reads, or a
                function of a Trace.

        Returns:
            a Trace for each variant; with `metric` its numbers, float32.

        Raises:
            InvalidRead, InvalidLayer, NoAttention, InvalidEdit, SpanNotFound, GridMismatch: of any variant, before any forward runs.
            NotFinite: a variant's states or logits are NaN or infinite.
            ProbeError: what else `run` raises.

        >>> x = model.encode(image, "Is there a cat in the image?")
        >>> variants = [[], *([probe.edit.zero(probe.MLPOutput(block, at=-1))] for block in range(6, 8))]
        >>> [trace.logits().shape["token"] for trace in model.run_variants(x, probe.Logits(at=-1), variants)]
        [1, 1, 1]
        >>> model.run_variants(x, variants=variants, metric=probe.LogitDifference("yes", "No")).shape
        torch.Size([3])
        """
        batch, checked = self.runtime.batch(encoding), _checked_variants(variants)
        if metric is None:
            return run_variants(self.runtime, batch, as_reads(reads), checked, lambda trace: trace)
        asked = list(reads) if isinstance(reads, Iterable) else [reads]
        if isinstance(metric, (LogitDifference, TokenDifference)):
            if len(batch.tokens) > 1:
                raise InvalidRead(f"metric={metric!r} is of one sequence, got a batch of {len(batch.tokens)}. Pass them one by one.")
            (metric,) = differences_of_rows(metric, encoding, batch.tokens, self.runtime)
            asked.append(Logits(at=metric.at))
        elif not callable(metric):
            raise InvalidRead(f"metric= takes a probe.LogitDifference, or a function from a Trace to one number; got {metric!r}.")
        values = run_variants(self.runtime, batch, as_reads(asked), checked, partial(value_of_trace, metric))
        return torch.stack(values) if values else torch.zeros(0)

    def attribute_logits(
        self, encoding: Encoding | Mapping[str, Tensor], *, plus: str | int, minus: str | int, at: int = -1
    ) -> Attribution:
        """Direct logit attribution: what each head, MLP and other part adds to logit(plus) - logit(minus) at one position.

        Each adds to the residual stream, of which the difference is a linear function once the scale of the final norm is taken as it is. So
        the parts sum to the difference: in float32 to 1e-4 of the sum of their absolute values, or this raises. Where the logits are scaled
        after the head, the parts are, too; where they are capped, the difference is that before the cap, and `note` says so.

        Args:
            encoding: one sequence, as in `run`.
            plus, minus, at: as in `probe.LogitDifference`.

        Raises:
            InvalidRead, SpanNotFound: before the forward: the difference is not of two tokens of this model, or the family's states are no
                sums of its parts; the message says why. After it: norms or logits are not what they are taken for.

        >>> y = model.encode(image, "Is there a cat in the image?")
        >>> found = model.attribute_logits(y, plus="yes", minus="No")
        >>> found.mlp.shape
        {'layer': 8}
        """
        self.runtime.require_decoder("attribute_logits")
        return attribute_logits(self.runtime, encoding, LogitDifference(plus, minus, at))

    def gradients(
        self,
        encoding: Encoding | Mapping[str, Tensor],
        *,
        of: Metric,
        to: Iterable[Read] | Read,
        method: Method = "gradient",
        steps: int = 32,
        baseline: Operand | None = None,
        edits: Iterable[Edit] | Edit = (),
    ) -> Trace:
        """Gradients of a number of the logits with respect to hidden states, projected tokens, or what parts of a block add.

        Equals `torch.autograd.grad` of the same number on plain Hugging Face, with respect to the same tensor. All reads get theirs from one
        forward and one backward, which keep what is behind the first read. Weights need no gradients and get none.

        Args:
            encoding: as in `run`.
            of: a `probe.LogitDifference`, or a function from a row's logits (token, vocabulary) to one number.
            to: `Hidden`, `Projected`, `AttentionOutput`, `MLPOutput` or `HeadOutput` reads.
            method: "gradient"; "input_x_gradient", the gradient times the value; or "integrated": the mean gradient on the straight way from
                the baseline to the value, times that way. This sums to what the metric changes by from baseline to value, or a warning says
                by how much it does not. Each read is integrated at each of its layers by itself, the rest left as it is: `steps` + 2 passes.
            steps: of the way.
            baseline: where it starts, as `value` of `probe.edit.replace`; None: at 0.
            edits: what is changed in every pass, see `probe.edit`.

        Returns:
            a Trace with the dims of the reads; in the model's dtype, integrated float32.

        Raises:
            InvalidRead, InvalidLayer, InvalidEdit, SpanNotFound, GridMismatch: before the forward runs.
            NotFinite: the metric or a gradient is NaN or infinite.

        >>> y = model.encode(image, "Is there a cat in the image?")
        >>> grads = model.gradients(y, of=probe.LogitDifference("yes", "No"), to=probe.Hidden([3, 4], at="image"), method="input_x_gradient")
        >>> heat = grads[probe.Hidden(3, at="image")].reduce("sum", "layer", "batch", "feature").grid().to_pixels()
        >>> heat.shape == {"height": image.height, "width": image.width}
        True
        """
        reads = tuple(to) if isinstance(to, Iterable) else (to,)
        self.runtime.require_decoder("gradients")
        return gradients(self.runtime, encoding, of, reads, method=method, steps=steps, baseline=baseline, edits=check_edits(edits))


def _checked_variants(variants: Iterable[Iterable[Edit] | Edit]) -> list[tuple[Edit, ...]]:
    """The edits of each variant.

    Raises:
        InvalidEdit: something that is no edit, or one edit instead of several variants.
    """
    if isinstance(variants, Edit):
        raise InvalidEdit(f"variants= takes the edits of several runs, got {variants!r}. Pass a list of variants: [[...], [...]].")
    return [check_edits(edits) for edits in variants]
