"""The methods of `Probe` that take many inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from probe.encoder import Encoder
from probe.inputs.encoding import Encoding
from probe.many.ordered import InOrder, in_order
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
            And in the turn of an input what `run` raises of it.

        >>> questions = ("Is there a cat?", "Is there a clock in the image?")
        >>> traces = model.run_many((model.encode(image, question) for question in questions), probe.Hidden(4, at="question"))
        >>> [trace.hidden("question", layer=4).shape["token"] for trace in traces]
        [5, 8]
        """
        asked, changes = tuple(as_reads(reads)), check_edits(edits)
        self.runtime.resolve(asked)
        return in_order(encodings, Runs(self.runtime, asked, changes), self.runtime.batcher("rows", "run_many"))
