"""Encoder: images and text, as a model takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from probe.backbones import Backbone, ProcessedImage
from probe.backbones.base import no_direct_resize
from probe.errors import ImageError, LoadError, ProcessorNeeded, TemplateError
from probe.inputs.encoding import Encoding, PreparedImages
from probe.inputs.image_cache import with_image_cache
from probe.inputs.images import ImageLike, open_images
from probe.inputs.patches import no_answer, patch_map
from probe.inputs.processors import Processor, image_processor_of, prompt_inputs, tokenizer_of
from probe.inputs.prompt import Messages, build_prompt, image_token
from probe.inputs.text import AnswerTokenizer, token_map
from probe.runtime import Runtime
from probe.tokens.layout import ImageLayout


@dataclass(frozen=True)
class ImagePreparation:
    """How images reach the vision tower: as the checkpoint's processor prepares them, or resized directly to the tower's input.

    Attributes:
        resize: "processor" or "stretch", as of `probe.load`.
        tiles: False: the base view alone.
    """

    resize: Literal["processor", "stretch"] = "processor"
    tiles: bool = True

    def __post_init__(self) -> None:
        if self.resize not in ("processor", "stretch"):
            raise LoadError(
                f'resize={self.resize!r}: "processor" (what the checkpoint does) or "stretch" (directly to the tower\'s input).'
            )

    def is_direct(self, backbone: Backbone, family: str) -> bool:
        """Whether images are resized directly, rather than by the processor.

        Raises:
            LoadError: resize="stretch" with tiles=True, in a family that cuts tiles.
            NoDirectResize: the family does not declare a layout of directly resized images.
        """
        if self.resize == "stretch" and self.tiles and backbone.tiled:
            raise LoadError(
                'resize="stretch" shows the whole image as one square, and this family would cut tiles of it. Load it with tiles=False as well.'
            )
        direct = self.resize == "stretch" or (backbone.tiled and not self.tiles)
        if direct and not backbone.resizes_directly:
            raise no_direct_resize(family)
        return direct


class Encoder:
    """Encodes images and prompts for one model.

    Args:
        runtime: the model.
        processor: its Hugging Face processor, or the tokenizer or image processor of a model that takes only text or images; None: only
            plain encodings can be run.
        preparation: how images are resized.

    Attributes:
        direct: whether images are resized directly to the tower's input, so that the grid covers the whole image.

    Raises:
        LoadError, NoDirectResize: the family cannot prepare images so.
    """

    def __init__(self, runtime: Runtime, processor: Processor | None, preparation: ImagePreparation) -> None:
        self.runtime, self.processor, self.preparation = runtime, processor, preparation
        self.direct = preparation.is_direct(runtime.backbone, runtime.family)

    def prepare(self, images: ImageLike | Sequence[ImageLike] | PreparedImages | None) -> PreparedImages:
        """Images opened once for many prompts: see `Probe.prepare`."""
        images = [] if images is None else images
        if isinstance(images, PreparedImages):
            if images.made_for is self.preparation:
                return images
            images = list(images.images)
        opened = tuple(open_images(images))
        if not self.direct or not opened:
            return PreparedImages(opened, made_for=self.preparation)
        runtime = self.runtime
        inputs, layouts = runtime.backbone.prepare_directly(runtime.model, self._processor_for("prepare"), opened)
        return PreparedImages(opened, inputs, tuple(layouts), made_for=self.preparation)

    def moved_to_device(self, images: PreparedImages) -> PreparedImages:
        """The same images, with the inputs that were prepared for them on the model's device."""
        return images if images.inputs is None else replace(images, inputs=self.runtime.to_device(images.inputs))

    def encode(
        self,
        images: ImageLike | Sequence[ImageLike] | PreparedImages | None,
        text: str | Messages,
        *,
        chat: bool = True,
        template: str | None = None,
    ) -> Encoding:
        """Images and a prompt as the model takes them: see `Probe.encode`."""
        runtime, processor = self.runtime, self._processor_for("encode")
        prepared = self.prepare(images)
        if not runtime.has_decoder:
            return _without_prompt(runtime, processor, prepared, text)
        if template is None and getattr(processor, "chat_template", None) is None and isinstance(text, str):
            template = runtime.backbone.template
        count = len(prepared.images) if runtime.backbone.marks_images else 0
        prompt, words = build_prompt(processor, text, count, chat=chat, template=template)
        inputs, layouts = self._inputs(processor, prepared, prompt)
        tokenizer, image_token_id = tokenizer_of(processor), runtime.image_token_id if layouts else runtime.modules.image_token_id
        tokens = token_map(runtime.family, tokenizer, image_token_id, inputs["input_ids"][0].tolist(), layouts, words)
        tokens.check_layouts()
        answer_tokenizer = AnswerTokenizer(tokenizer, image_token(processor))
        return Encoding(runtime.to_device(inputs), tokens, prompt, len(tokens), answer_tokenizer, runtime.backbone.answer_fill)

    def pad_token_id(self) -> int | None:
        """The tokenizer's padding token.

        Raises:
            ProcessorNeeded: there is no processor.
        """
        padding: int | None = tokenizer_of(self._processor_for("generate")).pad_token_id
        return padding

    def _processor_for(self, step: str) -> Processor:
        if self.processor is None:
            raise ProcessorNeeded(
                f"{step}() needs a processor: load with probe.load(model=..., processor=...). run() takes a plain encoding."
            )
        return self.processor

    def _inputs(self, processor: Processor, prepared: PreparedImages, prompt: str) -> tuple[dict[str, Tensor], list[ImageLayout | None]]:
        """What the model takes for a prompt, and where each image's tokens lie."""
        tokenizer = tokenizer_of(processor)
        # A chat template that writes the beginning-of-sequence token itself must not get a second one.
        special = not (tokenizer.bos_token and prompt.startswith(tokenizer.bos_token))
        if prepared.inputs is None or prepared.layouts is None:
            cached = with_image_cache(processor, prepared.image_cache)
            inputs = prompt_inputs(cached, prepared.images, prompt, special=special)
            sizes = [(image.height, image.width) for image in prepared.images]
            processed = [ProcessedImage(self.runtime.model, processor, size, inputs, index) for index, size in enumerate(sizes)]
            return dict(inputs), [self.runtime.backbone.layout(image) for image in processed]
        token = image_token(processor)
        pieces = prompt.split(token)
        expanded = pieces[0] + "".join(token * layout.tokens + piece for layout, piece in zip(prepared.layouts, pieces[1:], strict=True))
        return {**tokenizer(expanded, return_tensors="pt", add_special_tokens=special), **prepared.inputs}, list(prepared.layouts)


def _without_prompt(runtime: Runtime, processor: Processor, images: PreparedImages, text: str | Messages) -> Encoding:
    """One image as a vision encoder takes it: its positions are the image's patches, and there is no text.

    Raises:
        TemplateError: a text, which such a model does not read.
        ImageError: not one image.
    """
    if text:
        raise TemplateError(
            f"{runtime.family} is a vision encoder, which reads no text: {text!r:.80}. Pass an empty one, encode(image, '')."
        )
    if len(images.images) != 1:
        raise ImageError(f"A vision encoder's encoding is of one image, {len(images.images)} were given. Encode them one by one.")
    image_processor = image_processor_of(processor)
    inputs = runtime.to_device(dict(image_processor(images=list(images.images), return_tensors="pt")))
    size = (images.images[0].height, images.images[0].width)
    tokens = patch_map(runtime.family, runtime.backbone.layout(ProcessedImage(runtime.model, processor, size, inputs, 0)))
    return Encoding(inputs, tokens, "", len(tokens), no_answer, {})
