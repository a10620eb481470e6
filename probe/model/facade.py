"""Probe: encodes, generates, reads and edits, and opens sessions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import overload

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from probe.backbones import Backbone
from probe.encoder import Encoder, ImagePreparation, Resize
from probe.errors import InvalidRead
from probe.generation import generate_answers
from probe.inputs.encoding import Answer, Encoding, PreparedImages
from probe.inputs.images import ImageLike
from probe.inputs.processors import Processor
from probe.inputs.prompt import Messages
from probe.inputs.videos import VideoLike
from probe.inspection import Inspection, inspect_model
from probe.many.image_batch import ImageBatch
from probe.model.analysis import Analysis
from probe.model.many import Many
from probe.runtime import Runtime
from probe.sessions.session import Session
from probe.tracing.edits import Edit
from probe.tracing.edits.plan import check_edits
from probe.tracing.modules import Modules
from probe.tracing.reads import Read, as_reads
from probe.tracing.trace import Trace


class Probe(Analysis, Many):
    """A Hugging Face multimodal model, loaded for reading its activations. Made by `probe.load`.

    Attributes:
        runtime: runs the model: its backbone, modules and engine.
        encoder: turns images and text into the model's inputs.
        name, revision: what was loaded, for the record.

    >>> model
    Probe(...glyphs/weights/llava, llava, 8 layers, torch.float32, cpu)
    >>> y = model.generate(model.encode(image, "Is there a cat in the image?"))
    >>> trace = model.run(y, [probe.Hidden(layers=[3, 4], at="image")])
    >>> trace.hidden("image", layer=4).grid().data.shape
    torch.Size([1, 14, 14, 128])
    """

    def __init__(self, runtime: Runtime, encoder: Encoder, name: str, revision: str | None = None) -> None:
        self.runtime, self.encoder = runtime, encoder
        self.name, self.revision = name, revision

    def __repr__(self) -> str:
        layers = len(self.modules.layers or self.modules.vision_blocks)
        return f"Probe({self.name}, {self.family}, {layers} layers, {self.model.dtype}, {self.model.device})"

    @property
    def model(self) -> PreTrainedModel:
        """The Hugging Face model."""
        return self.runtime.model

    @property
    def processor(self) -> Processor | None:
        """The Hugging Face processor, if there is one; of a model of words its tokenizer, of a vision encoder its image processor."""
        return self.encoder.processor

    @property
    def family(self) -> str:
        """`config.model_type`."""
        return self.runtime.family

    @property
    def backbone(self) -> Backbone:
        """What the family declares."""
        return self.runtime.backbone

    @property
    def modules(self) -> Modules:
        """Where the model's layers are."""
        return self.runtime.modules

    def inspect(self) -> Inspection:
        """What this model is and what can be read from it; prints as a table.

        >>> print(model.inspect()["layers"])
        8 decoder blocks, hidden_states 0 (embeddings) to 8
        """
        return inspect_model(self.runtime, self.processor)

    def prepare(self, images: ImageLike | Sequence[ImageLike] | PreparedImages) -> PreparedImages:
        """Images opened, and prepared for the vision tower, once for many prompts. `encode` and `open` take the result in place of images.

        Safe to call from other threads. Images that were prepared for this model are returned as they are; those that were prepared for
        another one are prepared anew.

        Raises:
            ImageError: an image that cannot be read.

        >>> prepared = model.prepare(image)
        >>> [len(model.encode(prepared, f"Is there a {name} in the image?").tokens.span("image")) for name in ("cat", "bird")]
        [196, 196]
        """
        return self.encoder.prepare(images)

    def with_preparation(self, *, resize: Resize = "processor", tiles: bool = True) -> Probe:
        """The same model, which prepares images in another way: see `resize` and `tiles` of `probe.load`. Nothing is loaded or copied.

        Raises:
            LoadError, NoDirectResize: the family cannot prepare images so.

        >>> model.with_preparation(resize="stretch", tiles=False).encoder.direct
        True
        """
        return Probe(self.runtime, Encoder(self.runtime, self.processor, ImagePreparation(resize, tiles)), self.name, self.revision)

    def validate(self, reads: Iterable[Read]) -> None:
        """Check that this model has the layers that these reads name.

        Raises:
            InvalidLayer, NoAttention, InvalidRead: of the first read that the model cannot give.

        >>> model.validate([probe.Hidden(layers=[99], at="image")])
        Traceback (most recent call last):
            ...
        probe.errors.InvalidLayer: Layer 99 was asked for, to read hidden states, but this model has layers 0 (embeddings) to 8.
        """
        self.runtime.resolve(reads)

    def encode(
        self,
        images: ImageLike | Sequence[ImageLike] | PreparedImages | None,
        text: str | Messages,
        *,
        videos: VideoLike | Sequence[VideoLike] | None = None,
        chat: bool = True,
        template: str | None = None,
    ) -> Encoding:
        """Images, videos and a prompt as the model takes them, with a name for every position.

        Args:
            images: one image (PIL, path or array), a list of them, or the result of `prepare`. None or []: no image.
            text: the user's words, or a list of chat messages; "" for a vision encoder, whose positions are its image's patches.
            videos: one video, or a list of them, in families that take videos: a list of frames (each as an image is given), an array
                (frame, height, width, 3), or the path of a file, whose frames the checkpoint's processor samples. All frames given are used.
                They come after the images in the prompt.
            chat: False takes `text` as the whole raw prompt, image tokens included.
            template: a template's name ("vicuna_v1", "mistral_instruct", "llava_v1", "llava_hf") or text; None: the processor's own chat template, or if it has
                none the family's.

        Raises:
            ImageError, TemplateError, ProcessorNeeded, GridMismatch; PackageNeeded: a package that the processor needs is not installed.

        >>> x = model.encode(image, "Is there a cat in the image?")
        >>> x.tokens.text("question")
        'Is there a cat in the image?'
        """
        return self.encoder.encode(images, text, videos=videos, chat=chat, template=template)

    @overload
    def generate(
        self,
        encoding: Encoding,
        *,
        num_return_sequences: int,
        begin: str | None = None,
        edits: Iterable[Edit] | Edit = (),
        scores: bool = False,
        **options: object,
    ) -> list[Answer]: ...

    @overload
    def generate(
        self,
        encoding: Encoding,
        *,
        num_return_sequences: None = None,
        begin: str | None = None,
        edits: Iterable[Edit] | Edit = (),
        scores: bool = False,
        **options: object,
    ) -> Answer: ...

    def generate(
        self,
        encoding: Encoding,
        *,
        num_return_sequences: int | None = None,
        begin: str | None = None,
        edits: Iterable[Edit] | Edit = (),
        scores: bool = False,
        **options: object,
    ) -> Answer | list[Answer]:
        """The model's answer: by default greedy, of at most 64 tokens.

        Args:
            encoding: a prompt; or an answer, which is continued unless it has ended.
            num_return_sequences: how many answers, as with `do_sample=True`; they come as a list. Left out: one, by itself.
            begin: words that the answer starts with; the model continues them.
            edits: what to change, see `probe.edit`. Positions of the prompt are changed in the pass over it, "answer" at every new token.
            scores: keep the probability of each generated token, in the model's own distribution: `Answer.probabilities`.
            options: Hugging Face's own (`max_new_tokens`, `do_sample`, `generation_config`, ...).

        Raises:
            InvalidRead: not an encoding of `encode`.
            ProbeError: options that an Answer cannot follow, such as `output_scores`, or `scores` with beams.
            NotFinite: a step's logits are NaN or infinite.

        >>> x = model.encode(image, "Is there a cat in the image?")
        >>> model.generate(x, max_new_tokens=4).text
        'yes, it contains'
        >>> [answer.text[:3] for answer in model.generate(x, num_return_sequences=2, do_sample=True, top_k=1)]
        ['yes', 'yes']
        """
        self.runtime.require_decoder("generate")
        _check_encoding(encoding, "generate")
        answers = generate_answers(
            self.runtime,
            self.encoder,
            encoding,
            begin=begin,
            edits=check_edits(edits),
            scores=scores,
            count=num_return_sequences,
            **options,
        )
        return answers if num_return_sequences is not None else answers[0]

    def next_logits(self, encoding: Encoding) -> Float[Tensor, "vocabulary"]:
        """Logits of the next token, float32: `logits[0, -1]` of Hugging Face.

        Raises:
            InvalidRead: not an encoding of `encode`.

        >>> model.next_logits(model.encode(image, "Is there a cat in the image?")).ndim
        1
        """
        self.runtime.require_decoder("next_logits")
        _check_encoding(encoding, "next_logits")
        return self.runtime.next_logits(encoding)

    def run(self, encoding: Encoding | Mapping[str, Tensor], reads: Iterable[Read] | Read, *, edits: Iterable[Edit] | Edit = ()) -> Trace:
        """One forward over the whole sequence, reading what was asked and stopping after the last read. A given answer is teacher-forced.

        Args:
            encoding: the result of `encode`, `generate` or `with_answer`, or a plain Hugging Face encoding (a mapping of tensors).
            reads: what to read.
            edits: what to change, see `probe.edit`; reads of what is edited get what the edits leave.

        Raises:
            InvalidRead, InvalidLayer, NoAttention, InvalidEdit, SpanNotFound, GridMismatch: before the forward runs.
            WrongRows, UnmodelledAttention: attention rows cannot be read exactly from this kernel.
            NotFinite: something that was read holds NaN or infinity; the message says in which layer it begins, and what to try.

        >>> trace = model.run(model.encode(image, "Is there a cat in the image?"), probe.Attention(layers=[4], query=-1, key="image"))
        >>> trace.attention(layer=4).shape
        {'batch': 1, 'head': 2, 'query': 1, 'key': 196}
        """
        return self.runtime.run(self.runtime.batch(encoding), as_reads(reads), check_edits(edits))

    def open(
        self,
        images: ImageLike | Sequence[ImageLike] | PreparedImages | None,
        *,
        keep: Iterable[Read] = (),
        edits: Iterable[Edit] | Edit = (),
        policy: str | None = None,
        chat: bool = True,
        template: str | None = None,
        together: ImageBatch | None = None,
    ) -> Session:
        """One image, many questions: the image is encoded once, and its part of the prompt is run once. See `Session`.

        With None, of a model of text: the words that all prompts begin with are run once.

        >>> with model.open(image) as session:
        ...     answers = session.ask(["Is there a cat in the image?", "Is there a clock in the image?"], max_new_tokens=4)
        >>> [answer.text for answer in answers]
        ['yes, it contains', 'No.']
        """
        self.runtime.require_decoder("open")
        return Session(
            self.runtime,
            self.encoder,
            images,
            keep=tuple(keep),
            edits=check_edits(edits),
            policy=policy,
            chat=chat,
            template=template,
            together=together,
        )


def _check_encoding(encoding: object, step: str) -> None:
    if not isinstance(encoding, Encoding):
        raise InvalidRead(
            f"{step}() takes what encode() returned, got a {type(encoding).__name__}. Only run() takes a plain Hugging Face encoding."
        )
