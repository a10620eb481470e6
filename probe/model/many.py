"""The methods of `Probe` that take many inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from probe.encoder import Encoder
from probe.inputs.encoding import Answer, Encoding
from probe.many.generating import Generations
from probe.many.ordered import InOrder, head_start, in_order
from probe.many.running import Runs
from probe.runtime import Runtime
from probe.tracing.edits import Edit
from probe.tracing.edits.plan import check_edits
from probe.tracing.reads import Read, as_reads
from probe.tracing.trace import Trace


class Many:
    """What `Probe` does with many inputs.

    Attributes:
        runtime: runs the model.
        encoder: turns images and text into the model's inputs.
    """

    runtime: Runtime
    encoder: Encoder

    def run_many(
        self, encodings: Iterable[Encoding | Mapping[str, Tensor]], reads: Iterable[Read] | Read, *, edits: Iterable[Edit] | Edit = ()
    ) -> InOrder[Trace]:
        """The trace of each of many inputs, in order, each as `run` gives it alone: its tokens, spans, grids and positions, no padding.

        Neighbours run together, as the rows of a padded batch as large as memory allows. The next batch is taken from `encodings` in a thread
        meanwhile, so pass a generator that encodes: images are opened when they are needed, and few are held.

        The first batch is compared with a run of one of its inputs alone. Where rows of a batch are not what `run` gives, or where what is read
        or edited is not of one row, inputs run one by one; a warning says why, and so does `inspect()["batches"]` of what is known beforehand.

        Args:
            encodings: results of `encode`, `generate` or `with_answer`, or plain Hugging Face encodings; of any images and lengths.
            reads, edits: as in `run`, the same for all.

        Returns:
            an iterator; see `InOrder` about errors of single inputs, and `close()`.

        Raises:
            InvalidRead, InvalidLayer, NoAttention, InvalidEdit: of reads and edits that no input has, at once.
            torch.OutOfMemoryError: an input does not fit into memory by itself.
            ProbeError: what `run` raises of an input, in its turn.

        >>> questions = ("Is there a cat?", "Is there a clock in the image?")
        >>> traces = model.run_many((model.encode(image, question) for question in questions), probe.Hidden(4, at="question"))
        >>> [trace.hidden("question", layer=4).shape["token"] for trace in traces]
        [5, 11]
        """
        asked, changes = tuple(as_reads(reads)), check_edits(edits)
        self.runtime.resolve(asked)
        work = Runs(self.runtime, asked, changes)
        return in_order(encodings, work, self.runtime.batcher("rows", "run_many"), head_start(self.runtime.model.device))

    def generate_many(
        self,
        encodings: Iterable[Encoding],
        *,
        begin: str | None = None,
        edits: Iterable[Edit] | Edit = (),
        scores: bool = False,
        **options: object,
    ) -> InOrder[Answer]:
        """The answer to each of many prompts, in order, each as `generate` gives it alone: by default greedy, of at most 64 tokens.

        As `run_many` does, it takes the next batch from `encodings` in a thread meanwhile, finds the size of batches, and trusts them when the
        first has shown that padding changes no probability. Sampled answers depend on the batch that they are drawn in.

        Args:
            encodings: prompts; or answers, which are continued unless they have ended.
            begin, edits, scores, options: as in `generate`. With edits, and with options that choose no single tokens or that hold code of your
                own, answers are generated one by one; with options that count the prompt's tokens, as `repetition_penalty` and `max_length`
                do, in batches of equal lengths.

        Returns:
            an iterator; see `InOrder` about errors of single prompts, and `close()`.

        Raises:
            ProcessorNeeded, ProbeError: options that an Answer cannot follow, at once.
            torch.OutOfMemoryError: a prompt does not fit into memory by itself.
            ProbeError: what `generate` raises of a prompt, in its turn.

        >>> questions = ("Is there a cat in the image?", "Is there a clock in the image?")
        >>> [answer.text for answer in model.generate_many((model.encode(image, question) for question in questions), max_new_tokens=4)]
        ['yes, it contains', 'No.']
        """
        self.runtime.require_decoder("generate_many")
        work = Generations(self.runtime, self.encoder, begin=begin, edits=check_edits(edits), scores=scores, options=options)
        return in_order(encodings, work, self.runtime.batcher("rows", "generate_many"), head_start(self.runtime.model.device))
