"""Runtime: a Hugging Face model and everything that runs it: its backbone, its modules, the engine, and token budgets."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from probe.backbones import Backbone, backbone_for
from probe.batcher import TOKEN_BUDGET, AdaptiveBatcher
from probe.errors import InvalidRead, LoadError, NotFinite
from probe.inputs.encoding import Encoding
from probe.inputs.media import image_positions
from probe.inputs.patches import NO_TOKEN, patch_map
from probe.tokens.layout import ImageLayout
from probe.tokens.span import Span
from probe.tokens.spans import TokenMap, image_spans
from probe.tracing.capturing.captured import Captured
from probe.tracing.capturing.finite import advice
from probe.tracing.capturing.vision_layout import VisionLayout
from probe.tracing.edits import Edit, EditPlan, resolve_edits
from probe.tracing.edits.stepwise import GenerationEdits, sequences_of, tokens_with_answer
from probe.tracing.edits.widths import state_width
from probe.tracing.engine import Engine
from probe.tracing.modules import Modules, discover, run_tower
from probe.tracing.reads import Read
from probe.tracing.resolving import ReadPlan, resolve_reads
from probe.tracing.slots import SequenceSlot
from probe.tracing.trace import Trace


@dataclass(frozen=True)
class Batch:
    """One forward's inputs, and where each sequence lies in them.

    Attributes:
        inputs: the arguments of Hugging Face's forward.
        tokens: for each sequence what its positions are, padding left out.
        slots: for each sequence its row, and where its first token is.
    """

    inputs: Mapping[str, Tensor]
    tokens: tuple[TokenMap, ...]
    slots: tuple[SequenceSlot, ...]

    @classmethod
    def of(cls, encoding: Encoding) -> Batch:
        """The batch of one encoding."""
        return cls(encoding.inputs, (encoding.tokens,), (SequenceSlot(0),))


class Runtime:
    """Runs one Hugging Face model.

    Attributes:
        model: put into eval mode by `probe.load`.
        family: `config.model_type`.
        backbone: what the family declares.
        modules: where the layers are.
        engine: runs forwards that are read.
        cache_argument: under which name the model's forward takes a KV cache.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.family = str(model.config.model_type)
        self.backbone: Backbone = backbone_for(model.config)
        self.modules: Modules = discover(model)
        self.engine = Engine(model, self.modules)
        # A model's widths do not change, and an edit of all layers asks for each.
        self._width = lru_cache(maxsize=None)(partial(state_width, model, self.modules))
        # transformers 5.24 gives it another name, family by family, and warns of the old one.
        self.cache_argument = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
        self._batchers: dict[tuple[str, str], AdaptiveBatcher] = {}

    @property
    def has_decoder(self) -> bool:
        """Whether the model reads text; False: a vision encoder, of which the tower alone is run."""
        return bool(self.modules.layers)

    def require_decoder(self, step: str) -> None:
        """Refuse what only a model of words can do.

        Raises:
            InvalidRead: the model is a vision encoder.
        """
        if not self.has_decoder:
            raise InvalidRead(
                f"{step}() needs a text decoder, and {self.family} is a vision encoder without one. Read probe.Vision or "
                "probe.VisionAttention with run()."
            )

    @property
    def image_token_id(self) -> int:
        """The id of image tokens in `input_ids`.

        Raises:
            LoadError: the family declares none.
        """
        if self.modules.image_token_id is None:
            raise LoadError(
                f"{self.family} declares no image token id, so its images cannot be found in input_ids. Register a backbone for it."
            )
        return self.modules.image_token_id

    def to_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inputs on the model's device, floating-point tensors in its dtype."""

        def moved(value: Tensor) -> Tensor:
            if not isinstance(value, Tensor):  # a plain encoding may have lists beside its tensors
                return value  # type: ignore[unreachable]
            return value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)

        return {name: moved(value) for name, value in inputs.items()}

    def batch(self, encoding: Encoding | Mapping[str, Tensor]) -> Batch:
        """The batch of an encoding: ours, or a plain Hugging Face one (a mapping of tensors) with rows that may be padded.

        Raises:
            InvalidRead: not an encoding, without `input_ids`, or padded between its tokens.
        """
        if isinstance(encoding, Encoding):
            return Batch.of(encoding)
        if not isinstance(encoding, Mapping):
            raise InvalidRead(
                f"run() takes one encoding, got a {type(encoding).__name__}. Pass what encode(), generate() or a Hugging Face processor "
                "returned; call run() once for each of several."
            )
        if not self.has_decoder:
            return self._image_batch(encoding)
        # Where an encoder reads the prompt, the decoder's sequence is the answer.
        prefix = "decoder_" if "decoder_input_ids" in encoding else ""
        if f"{prefix}input_ids" not in encoding:
            raise InvalidRead(
                f"A plain encoding has input_ids, or decoder_input_ids of a model with an encoder; this one has "
                f"{', '.join(encoding) or 'nothing'}. Pass what a processor returned."
            )
        inputs = self.to_device(encoding)
        ids: Tensor = inputs[f"{prefix}input_ids"]
        mask = _padding_mask(ids, inputs.get(f"{prefix}attention_mask"))
        leading = self.backbone.leading(self.model, inputs)
        if leading and not bool(mask[:, 0].all()):
            raise InvalidRead(f"{self.family} puts its images before input_ids, so padding has to lie behind them. Pad on the right.")
        marks = inputs.get(self.backbone.image_mask)
        tokens = tuple(
            self._tokens(self.known_ids(ids[row, keep].tolist(), leading, None if marks is None else marks[row, keep].tolist()))
            for row, keep in enumerate(mask)
        )
        return Batch(inputs, tokens, tuple(SequenceSlot(row, int(keep.int().argmax())) for row, keep in enumerate(mask)))

    def _image_batch(self, encoding: Mapping[str, Tensor]) -> Batch:
        """The batch of a plain encoding of a vision encoder: a sequence of patches for each image, its boxes in pixels of the input."""
        if "pixel_values" not in encoding:
            raise InvalidRead(
                f"{self.family} is a vision encoder: a plain encoding has pixel_values, this one has {', '.join(encoding) or 'nothing'}. "
                "Pass what its image processor returned."
            )
        inputs = self.to_device(encoding)
        grids = [self.backbone.input_grid(self.model, inputs, index) for index in range(len(inputs["pixel_values"]))]
        tokens = tuple(patch_map(self.family, ImageLayout((grid,)) if grid else None) for grid in grids)
        return Batch(inputs, tokens, tuple(SequenceSlot(row) for row in range(len(tokens))))

    def known_ids(self, ids: Sequence[int], leading: int, marks: Sequence[int] | None) -> tuple[int, ...]:
        """The ids of a sequence, NO_TOKEN where the model itself puts an image.

        Args:
            leading: positions before `ids`.
            marks: the row of `Backbone.image_mask`, in families that have one: the ids of image tokens are those of words there.
        """
        own = ids if marks is None else [NO_TOKEN if mark == 1 else token for token, mark in zip(ids, marks, strict=True)]
        return (NO_TOKEN,) * leading + tuple(own)

    def _tokens(self, known: tuple[int, ...]) -> TokenMap:
        """The positions of a row of a plain encoding: `image`, and `audio` if there is any. Its images have no layout."""
        image = image_positions(known, self.modules.image_token_id)
        images = (image,) if image else ()
        spans, audio = image_spans(images), tuple(position for position, token in enumerate(known) if token == self.modules.audio_token_id)
        if audio:
            spans["audio"] = Span(audio, "audio")
        return TokenMap(known, images, (None,) * len(images), spans, family=self.family)

    def resolve(self, reads: Iterable[Read], tokens: Sequence[TokenMap] = ()) -> ReadPlan:
        """The reads with their layers and positions, checked against this model.

        Raises:
            InvalidRead, InvalidLayer, NoAttention, SpanNotFound, GridMismatch.
        """
        plan = resolve_reads(reads, self.modules, tokens)
        if plan.vision_attention and tokens:
            plan.tower = self._vision_layout(tokens)
        return plan

    def forward(self, inputs: Mapping[str, Tensor], **options: object) -> ModelOutput:
        """Hugging Face's forward on encoded inputs, without a KV cache unless `options` say otherwise. The caller holds the lock."""
        given = self.backbone.forward_inputs(self.model, inputs)
        if not self.has_decoder:
            return run_tower(self.model, given)
        return self.model(**given, **({"use_cache": False} | options))

    def resolve_edits(self, edits: Sequence[Edit], tokens: Sequence[TokenMap]) -> EditPlan:
        """The edits with their layers, positions and shapes, checked against this model.

        Raises:
            InvalidEdit, InvalidRead, InvalidLayer, NoAttention, SpanNotFound, GridMismatch.
        """
        return resolve_edits(edits, self.modules, tokens, self._vision_layout(tokens), self._width)

    def run(self, batch: Batch, reads: Iterable[Read], edits: Sequence[Edit] = ()) -> Trace:
        """One forward over a batch: see `Probe.run`."""
        plan, changes = self.resolve(reads, batch.tokens), self.resolve_edits(edits, batch.tokens)
        try:
            captured = self.engine.run(self.forward, batch.inputs, plan, batch.slots, edits=changes)
        except NotFinite as error:
            raise self.not_finite_with_layer(error, [batch], edits) from error
        return self.trace(batch.tokens, captured, plan)

    def generate_edited(
        self, start: Encoding, inputs: Mapping[str, object], settings: Mapping[str, object], edits: Sequence[Edit]
    ) -> Tensor | ModelOutput:
        """Hugging Face's generate() under edits: each of its passes is edited where it has what they name.

        Args:
            start: the prompt, with the words that the answer begins with.
            inputs, settings: the arguments of generate().

        Raises:
            InvalidEdit, InvalidRead, InvalidLayer, NoAttention, SpanNotFound, GridMismatch: before the first pass.
        """
        rows, cached = sequences_of(settings, self.model.generation_config)
        passes = GenerationEdits(edits, start.tokens, start.prompt_length, rows, cached, self.resolve_edits, self.modules)
        passes.steps(0)
        return self.engine.generate(
            lambda given: self.model.generate(**given, **settings),
            dict(inputs),
            lambda given: self.model(**given, use_cache=False),
            passes.steps,
        )

    def trace(self, tokens: tuple[TokenMap, ...], captured: Captured, plan: ReadPlan) -> Trace:
        """A Trace of what one forward captured of these sequences."""
        depth = (len(self.modules.layers) + 1, len(self.modules.layers))
        return Trace(tokens, captured, plan, depth, self._vision_layout(tokens), self.backbone.last_is_normed)

    def next_logits(self, encoding: Encoding, edits: Sequence[Edit] = ()) -> Float[Tensor, "vocabulary"]:
        """Logits of the next token, float32: `logits[0, -1]` of Hugging Face."""
        batch = Batch.of(encoding)
        changes = self.resolve_edits(edits, [tokens_with_answer(encoding.tokens, encoding.prompt_length, encoding.tokens.ids)])

        def forward(inputs: Mapping[str, Tensor]) -> ModelOutput:
            return self.forward(inputs, logits_to_keep=1)

        with self.engine.lock, torch.no_grad():
            output = self.engine.run_edited(forward, batch.inputs, changes, batch.slots) if edits else forward(batch.inputs)
            logits: Tensor = output.logits
        return logits[0, -1].float()

    def batcher(self, policy: str, work: str) -> AdaptiveBatcher:
        """The batcher of one kind of work ("ask", "score", "trace") under a policy of prefix sharing; it remembers what fitted."""
        return self._batchers.setdefault((policy, work), AdaptiveBatcher(TOKEN_BUDGET[work]))

    def not_finite_with_layer(self, error: NotFinite, batches: Sequence[Batch], edits: Sequence[Edit] = ()) -> NotFinite:
        """The error, completed by the layer where NaN or infinity begins and by what to try.

        Args:
            batches: what was run together, each to be run by itself; the first that is not finite is reported.
            edits: that were in force.
        """
        all_checked = True
        for batch in batches:
            where = self._first_not_finite(batch, edits)
            if where:
                return self._with_advice(error, f"It begins in {where}. ")
            all_checked = all_checked and where is not None
        return self._with_advice(error, "It begins there: the states of all layers are finite. " if all_checked else "")

    def _with_advice(self, error: NotFinite, where: str) -> NotFinite:
        return NotFinite(f"{error} {where}{advice(self.model.dtype)}")

    def _first_not_finite(self, batch: Batch, edits: Sequence[Edit]) -> str | None:
        """The first state that is not finite; "" if all are finite; None: this could not be found out."""
        positions = tuple(tuple(range(len(tokens))) for tokens in batch.tokens)
        try:
            changes = self.resolve_edits(edits, batch.tokens)
            return self.engine.first_not_finite_state(self.forward, batch.inputs, positions, batch.slots, changes)
        except Exception:  # such as a shortage of memory: it must not replace the error that is being reported
            return None

    def patches(self, tokens: Sequence[TokenMap]) -> int | None:
        """How many of the vision tower's states of one image are patches; None: not known."""
        return self._vision_layout(tokens).patches

    def _vision_layout(self, tokens: Sequence[TokenMap]) -> VisionLayout:
        depth = len(self.modules.vision_blocks) + 1
        layouts = [layout for row in tokens for layout in row.layouts]
        if not self.has_decoder:  # each row is one image, and the tower's output has a row for each
            layouts = list(dict.fromkeys(layouts))
        view = layouts[0].view if len(layouts) == 1 and layouts[0] is not None else None
        grid, classes = self.backbone.vision_grid(self.model, view), self.backbone.class_tokens
        patches = None if grid is None or classes == "kept" else len(grid.tokens)
        if type(self.backbone).vision_grid is Backbone.vision_grid:
            return VisionLayout(depth, None, None, "the family does not say how the tower's patches lie", classes)
        if view is None:
            reason = "the tower takes several images or tiles, or at one whose layout is not known"
            return VisionLayout(depth, patches, None, reason, classes, self._base_crop(layouts))
        if grid is None:
            return VisionLayout(depth, None, None, "the family does not say how the tower's patches lie", classes)
        return VisionLayout(depth, patches, ImageLayout((grid,)), "", classes)

    def _base_crop(self, layouts: Sequence[ImageLayout | None]) -> tuple[int, ImageLayout] | None:
        """Of one image in tiles, which crop of the tower shows it whole, and that crop's patches; None: no image, or no such crop."""
        grids = layouts[0].grids if len(layouts) == 1 and layouts[0] is not None else ()
        base = next((grid for grid in grids if grid.name == "base"), None)
        patches = None if base is None else self.backbone.vision_grid(self.model, base)
        # The tower takes the crops in the order in which their tokens stand in the sequence.
        return None if patches is None else (0 if base is grids[0] else -1, ImageLayout((patches,)))


def _padding_mask(ids: Tensor, given: Tensor | None) -> Tensor:
    """Which tokens of a plain encoding are real.

    Raises:
        InvalidRead: the mask has another shape than the ids, or padding lies between tokens.
    """
    mask = (torch.ones_like(ids) if given is None else given).bool()
    if mask.shape != ids.shape or not all(map(_unbroken, mask)):
        raise InvalidRead("The attention_mask of a plain encoding has the shape of input_ids, and its padding lies at one or both ends.")
    return mask


def _unbroken(mask: Tensor) -> bool:
    """Whether the True entries of a row are adjacent; a row without any is."""
    positions = mask.nonzero().flatten()
    return not len(positions) or int(positions[-1] - positions[0]) + 1 == len(positions)
