"""Probe: a multimodal model that can be asked, and looked into."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from transformers import LogitsProcessorList

from probe.backbones import Backbone, backbone_for
from probe.errors import InvalidRead, LoadError, NotFinite, ProcessorNeeded
from probe.generation import generation_options
from probe.inputs.encoding import Answer, Encoding, PreparedImages
from probe.inputs.image_cache import with_image_cache
from probe.inputs.images import ImageLike, open_images
from probe.inputs.prompt import Messages, build_prompt, image_token
from probe.inputs.text import AnswerTokenizer, token_map
from probe.inspection import Inspection, inspect_model
from probe.loading import check_decoder, default_dtype, load_checkpoint, resolve_device, resolve_dtype
from probe.preparation import Preparation
from probe.sessions.greedy import NEXT_LOGITS, TOKEN_BUDGET, AdaptiveBatcher, last_logits
from probe.sessions.prefix import PackedInputs
from probe.sessions.session import Session
from probe.tokens.layout import ImageLayout
from probe.tokens.spans import TokenMap, image_spans
from probe.tracing.engine import Captured, Engine
from probe.tracing.finite import FiniteLogits, advice
from probe.tracing.modules import Modules, discover
from probe.tracing.reads import Read
from probe.tracing.resolving import ReadPlan, SequenceSlot, resolve_reads
from probe.tracing.trace import Trace, VisionLayout


class Probe:
    """A Hugging Face multimodal model, opened for looking. Made by `probe.load`.

    Attributes:
        model, processor: the Hugging Face objects; processor may be None.
        direct: whether pictures are resized straight to the tower's input, so that the grid covers the whole picture.
        family: `config.model_type`.
        modules: where its layers are.
        engine: runs its forwards.
        name, revision: what was loaded, for the record.
    """

    def __init__(self, model: Any, processor: Any, preparation: Preparation, name: str, revision: str | None) -> None:
        self.model, self.processor, self.preparation = model, processor, preparation
        self.name, self.revision = name, revision
        self.family = str(model.config.model_type)
        self.backbone: Backbone = backbone_for(model.config)
        self.direct = preparation.direct(self.backbone, self.family)
        self.modules: Modules = discover(model)
        self.engine = Engine(model, self.modules)
        self._rooms: dict[tuple[str, str], AdaptiveBatcher] = {}

    def __repr__(self) -> str:
        return f"Probe({self.name}, {self.family}, {len(self.modules.layers)} layers, {self.model.dtype}, {self.model.device})"

    def inspect(self) -> Inspection:
        """What this model is and what can be read from it; prints as a table."""
        return inspect_model(self.model, self.modules, self.backbone, self.processor is not None)

    def prepare(self, images: ImageLike | Sequence[ImageLike]) -> PreparedImages:
        """Open images once for many prompts. `encode` and `open` take the result in place of the images; safe to call from other threads.

        Raises:
            ImageError: an image that cannot be read.
        """
        pictures = tuple(open_images(images))
        if not self.direct or not pictures:
            return PreparedImages(pictures, made_for=self.preparation)
        inputs, layouts = self.backbone.prepare_directly(self.model, self._processor("prepare"), pictures)
        return PreparedImages(pictures, inputs, tuple(layouts), made_for=self.preparation)

    def pictures(self, images: ImageLike | Sequence[ImageLike] | PreparedImages) -> PreparedImages:
        """Images prepared for this model: the given ones, if they are; images, and another model's pictures, are prepared."""
        if not isinstance(images, PreparedImages):
            return self.prepare(images)
        return images if images.made_for is self.preparation else self.prepare(list(images.images))

    def validate(self, reads: Iterable[Read]) -> None:
        """Check that this model has the layers that these reads name.

        Raises:
            InvalidLayer, NoAttention, InvalidRead.
        """
        resolve_reads(reads, self.modules, ())

    def encode(
        self,
        images: ImageLike | Sequence[ImageLike] | PreparedImages,
        text: str | Messages,
        *,
        chat: bool = True,
        template: str | None = None,
    ) -> Encoding:
        """Images and a prompt as the model takes them, with a name for every position.

        Args:
            images: one image (PIL, path or array), a list of them, or what `prepare` gave.
            text: the user's words, or a list of chat messages.
            chat: False takes `text` as the whole raw prompt, image tokens included.
            template: a template's name ("vicuna_v1", "mistral_instruct") or text; None: the processor's own chat template, or where it has
                none what the family declares.

        Raises:
            ImageError, TemplateError, ProcessorNeeded, GridMismatch.
        """
        processor = self._processor("encode")
        pictures = self.pictures(images)
        if template is None and processor.chat_template is None and isinstance(text, str):
            template = self.backbone.template
        marked = len(pictures.images) if self.backbone.marks_images else 0
        prompt, words = build_prompt(processor, text, marked, chat=chat, template=template)
        inputs, layouts = self._inputs(processor, pictures, prompt)
        tokens = token_map(self.family, processor.tokenizer, self.image_token_id(), inputs["input_ids"][0].tolist(), layouts, words)
        tokens.check_layouts()
        suffix = AnswerTokenizer(processor.tokenizer, image_token(processor))
        return Encoding(self.to_device(inputs), tokens, prompt, len(tokens), suffix, self.backbone.answer_fill)

    def generate(self, encoding: Encoding, *, begin: str | None = None, **options: Any) -> Answer:
        """The model's answer: greedy, of at most 64 tokens, unless told otherwise.

        Args:
            encoding: a prompt; or an answer, which is gone on with, unless it has ended.
            begin: words that the answer has to start with; the model goes on from there.
            options: Hugging Face's own (`max_new_tokens`, `do_sample`, `generation_config`, ...).

        Raises:
            ProbeError: several sequences were asked for.
            NotFinite: a step's logits are NaN or infinite.
        """
        start = encoding.with_answer(begin) if begin else encoding
        if isinstance(start, Answer) and "end" in start.tokens.spans:
            return start
        known = start.inputs["input_ids"].shape[1]
        settings = generation_options(
            options, self._processor("generate").tokenizer.pad_token_id, self.image_token_id(), self.model.generation_config
        )
        finite = FiniteLogits()
        settings["logits_processor"] = LogitsProcessorList([*(settings.get("logits_processor") or ()), finite])
        with self.engine.lock, torch.no_grad():
            inputs = self.backbone.forward_inputs(self.model, start.inputs)
            output = self.model.generate(**inputs, **settings)
        if finite.check.failed():
            raise self.explained(NotFinite(NEXT_LOGITS), [start])
        ids = getattr(output, "sequences", output)[0].tolist()
        generated = ids[known:] if "input_ids" in inputs else ids
        return encoding.with_answer_ids((*start.tokens.ids[encoding.prompt_length :], *generated))

    def next_logits(self, encoding: Encoding) -> torch.Tensor:
        """Logits (vocabulary) of the token that follows, float32: `logits[0, -1]` of Hugging Face."""
        with self.engine.lock, torch.no_grad():
            logits: torch.Tensor = self.model(**self.backbone.forward_inputs(self.model, encoding.inputs), logits_to_keep=1).logits
        return logits[0, -1].float()

    def last_logits(self, packed: PackedInputs) -> torch.Tensor:
        """Logits (sequence, vocabulary) of the tokens that follow sequences behind a shared prefix."""
        with self.engine.lock, torch.no_grad():
            return last_logits(self.model, packed)

    def room(self, policy: str, work: str) -> AdaptiveBatcher:
        """How much of some work ("ask", "trace") goes through this model at once under a policy of sharing."""
        return self._rooms.setdefault((policy, work), AdaptiveBatcher(TOKEN_BUDGET[work]))

    def run(self, encoding: Encoding | Mapping[str, Any], reads: Iterable[Read] | Read) -> Trace:
        """One forward over the whole sequence (an answer in it is teacher-forced), reading what was asked, stopping after the last read.

        Args:
            encoding: what `encode`, `generate` or `with_answer` gave, or a plain Hugging Face encoding (a mapping of tensors).
            reads: what to read.

        Raises:
            InvalidRead, InvalidLayer, NoAttention, SpanNotFound, GridMismatch: before the forward runs.
            WrongRows, UnmodelledAttention: attention rows cannot be read exactly from this kernel.
            NotFinite: something that was read holds NaN or infinity; the message says in which layer it begins, and what to try.
        """
        asked = [reads] if not isinstance(reads, Iterable) else list(reads)
        if not asked:
            raise InvalidRead("No reads were given. Name some, such as probe.Hidden(layers=[7], at='image').")
        if not isinstance(encoding, (Encoding, Mapping)):
            raise InvalidRead(
                f"run() takes one encoding, got a {type(encoding).__name__}. Pass what encode(), generate() or a Hugging Face processor "
                "returned; call run() once for each of several."
            )
        rows: tuple[TokenMap, ...]
        slots: tuple[SequenceSlot, ...]
        if isinstance(encoding, Encoding):
            inputs, rows, slots = encoding.inputs, (encoding.tokens,), (SequenceSlot(0),)
        else:
            inputs, rows, slots = self._plain(encoding)
        what: ReadPlan = resolve_reads(asked, self.modules, rows)
        try:
            captured = self.engine.run(self._forward, inputs, what, slots)
        except NotFinite as error:
            raise self._told(error, self._where_not_finite(inputs, rows, slots)) from error
        return self.traced(rows, captured, what)

    def explained(self, error: NotFinite, encodings: Sequence[Encoding]) -> NotFinite:
        """The error with the layer in which it begins and what to try.

        Args:
            encodings: what was read together; the first whose forward by itself is not finite is looked into.
        """
        unknown = False
        for one in encodings:
            begins = self._where_not_finite(one.inputs, (one.tokens,), (SequenceSlot(0),))
            if begins:
                return self._told(error, begins)
            unknown = unknown or begins is None
        return self._told(error, None if unknown else "")

    def _where_not_finite(self, inputs: Mapping[str, Any], rows: Sequence[TokenMap], slots: Sequence[SequenceSlot]) -> str | None:
        """Where NaN or infinity begins; "" where all states are finite; None: this could not be found out."""
        try:
            return self.engine.where_not_finite(self._forward, inputs, tuple(tuple(range(len(row))) for row in rows), slots)
        except Exception:  # such as a shortage of memory: it must not stand in place of the error that is looked into
            return None

    def _told(self, error: NotFinite, begins: str | None) -> NotFinite:
        where = {None: "", "": "It begins there: the states of all layers are finite. "}.get(begins, f"It begins in {begins}. ")
        return NotFinite(f"{error} {where}{advice(self.model.dtype)}")

    def _forward(self, inputs: Mapping[str, Any]) -> Any:
        return self.model(**self.backbone.forward_inputs(self.model, inputs), use_cache=False)

    def traced(self, rows: tuple[TokenMap, ...], captured: Captured, what: ReadPlan) -> Trace:
        """What was captured of these sequences, as a Trace."""
        depth = (len(self.modules.layers) + 1, len(self.modules.layers))
        return Trace(rows, captured.row_differences, captured, what, depth, self._vision_place(rows))

    def open(
        self,
        images: ImageLike | Sequence[ImageLike] | PreparedImages,
        *,
        keep: Iterable[Read] = (),
        policy: str | None = None,
        chat: bool = True,
        template: str | None = None,
    ) -> Session:
        """One image, many questions. See `Session`."""
        return Session(self, images, keep=tuple(keep), policy=policy, chat=chat, template=template)

    def _processor(self, step: str) -> Any:
        if self.processor is None:
            raise ProcessorNeeded(
                f"{step}() needs a processor: load with probe.load(model=..., processor=...). run() takes a plain encoding."
            )
        return self.processor

    def image_token_id(self) -> int:
        """The id that stands for image tokens."""
        if self.modules.image_token_id is None:
            raise LoadError(
                f"{self.family} declares no image token id, so its images cannot be found in input_ids. Register a backbone for it."
            )
        return self.modules.image_token_id

    def _inputs(self, processor: Any, pictures: PreparedImages, prompt: str) -> tuple[dict[str, Any], list[ImageLayout | None]]:
        tokenizer = processor.tokenizer
        # A chat template that writes the beginning-of-sequence token itself must not get a second one.
        special = not (tokenizer.bos_token and prompt.startswith(tokenizer.bos_token))
        if pictures.inputs is None or pictures.layouts is None:
            prepare = with_image_cache(processor, pictures.image_cache)
            inputs = prepare(images=list(pictures.images) or None, text=prompt, return_tensors="pt", add_special_tokens=special)
            sizes = [(image.height, image.width) for image in pictures.images]
            return dict(inputs), [self.backbone.layout(self.model, processor, size, inputs, index) for index, size in enumerate(sizes)]
        token = image_token(processor)
        pieces = prompt.split(token)
        expanded = pieces[0] + "".join(token * layout.tokens + piece for layout, piece in zip(pictures.layouts, pieces[1:], strict=True))
        return {**tokenizer(expanded, return_tensors="pt", add_special_tokens=special), **pictures.inputs}, list(pictures.layouts)

    def to_device(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors where the model is, those of numbers with a fraction in its dtype."""

        def moved(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)

        return {name: moved(value) for name, value in inputs.items()}

    def _plain(self, encoding: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[TokenMap, ...], tuple[SequenceSlot, ...]]:
        """A plain Hugging Face encoding: its rows without padding, and where they sit behind it."""
        # Where an encoder reads the prompt, the decoder's sequence is the answer.
        own = "decoder_" if "decoder_input_ids" in encoding else ""
        if f"{own}input_ids" not in encoding:
            raise InvalidRead(
                f"A plain encoding has input_ids, or decoder_input_ids of a model with an encoder; this one has "
                f"{', '.join(encoding) or 'nothing'}. Pass what a processor returned."
            )
        inputs = self.to_device(encoding)
        ids = inputs[f"{own}input_ids"]
        given = inputs.get(f"{own}attention_mask")
        mask = (torch.ones_like(ids) if given is None else given).bool()
        if mask.shape != ids.shape or any(len(set(row.tolist())) > 1 and not _unbroken(row) for row in mask):
            raise InvalidRead(
                "The attention_mask of a plain encoding has the shape of input_ids, and its padding lies at one or both ends."
            )
        leading = self.backbone.leading(self.model, inputs)
        if leading and not bool(mask[:, 0].all()):
            raise InvalidRead(f"{self.family} puts its pictures before input_ids, so padding has to lie behind them. Pad on the right.")
        rows, slots = [], []
        for row in range(len(ids)):
            real = [NO_WORD] * leading + ids[row][mask[row]].tolist()
            images = tuple(i for i, token in enumerate(real) if token in (NO_WORD, self.modules.image_token_id))
            shown = (images,) if images else ()
            rows.append(TokenMap(tuple(real), shown, (None,) * len(shown), image_spans(shown), family=self.family))
            slots.append(SequenceSlot(row, int(mask[row].int().argmax())))
        return inputs, tuple(rows), tuple(slots)

    def _vision_place(self, rows: Sequence[TokenMap]) -> VisionLayout:
        depth = len(self.modules.vision_blocks) + 1
        layouts = [layout for row in rows for layout in row.layouts]
        view = layouts[0].view if len(layouts) == 1 and layouts[0] is not None else None
        grid, classes = self.backbone.vision_grid(self.model, view), self.backbone.class_tokens
        patches = None if grid is None or classes == "kept" else len(grid.tokens)
        if view is None:
            reason = "the tower looks at several pictures or tiles, or at one whose layout is not known"
            return VisionLayout(depth, patches, None, reason, classes)
        if grid is None:
            return VisionLayout(depth, None, None, "the family does not say how the tower's patches lie", classes)
        return VisionLayout(depth, patches, ImageLayout((grid,)), "", classes)


NO_WORD = -1
"""The id, of no word, at positions that the model itself puts before `input_ids`."""


def _unbroken(mask: torch.Tensor) -> bool:
    """Whether the True entries of a row stand together."""
    where = mask.nonzero().flatten()
    return int(where[-1] - where[0]) + 1 == len(where)


def load(
    name: str | os.PathLike[str] | None = None,
    *,
    model: Any = None,
    processor: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    attn_implementation: str = "sdpa",
    device_map: Any = None,
    resize: Literal["processor", "stretch"] = "processor",
    tiles: bool = True,
    remote_code: bool = False,
) -> Probe:
    """Open a multimodal model for looking.

    Args:
        name: a hub id or a local folder; or
        model, processor: a loaded Hugging Face model and, optionally, its processor. The model is put into eval mode and its weights no
            longer require gradients.
        device: "cpu", "cuda", "cuda:1"...; for a loaded model: where it is.
        dtype: "float32", "bfloat16"...; None: float32 on the CPU, the checkpoint's own elsewhere.
        attn_implementation: the kernel; attention rows are exact under each that goes through transformers' attention interface. "sdpa":
            eager in parts of a model that do not support it.
        device_map: accelerate's, for models larger than one device.
        resize: "processor", what the checkpoint's own processor does, or "stretch", the whole picture directly at the tower's input size.
        tiles: False: the base view alone, for families that cut pictures into tiles.
        remote_code: run Python code that comes with the checkpoint. Off unless asked for.

    Raises:
        LoadError, DeviceNotFound.
    """
    preparation = Preparation(resize, tiles)
    if (name is None) == (model is None):
        raise LoadError("load() takes a name (a hub id or a folder) or a loaded model=, one of them.")
    if name is not None:
        where = resolve_device(device)
        wanted = resolve_dtype(dtype) or default_dtype(where, device_map)
        model, loaded = load_checkpoint(
            name, dtype=wanted, revision=revision, attn_implementation=attn_implementation, device_map=device_map, remote_code=remote_code
        )
        processor = processor or loaded
        if device_map is None:
            model = model.to(where)
    else:
        check_decoder(model)
        if device is not None or dtype is not None:
            model = model.to(device=resolve_device(device) if device else None, dtype=resolve_dtype(dtype))
        name = model.config._name_or_path or type(model).__name__
    model.eval().requires_grad_(False)
    return Probe(model, processor, preparation, str(name), revision or getattr(model.config, "_commit_hash", None))
