"""Encoder: images and text, as a model takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import Tensor

from probe.backbones import Backbone, ProcessedImage, ProcessedVideo
from probe.backbones.base import no_direct_resize
from probe.backbones.registry import families_of_videos
from probe.errors import ImageError, LoadError, ProcessorNeeded, TemplateError
from probe.inputs.encoding import Encoding, PreparedImages
from probe.inputs.image_cache import with_image_cache
from probe.inputs.images import ImageLike, open_images
from probe.inputs.media import Media
from probe.inputs.patches import no_answer, patch_map
from probe.inputs.processing import Replacement, processed_by, with_replacements
from probe.inputs.processors import Processor, image_processor_of, tokenizer_of
from probe.inputs.prompt import Messages, build_prompt, image_marks, takes_videos, token_text, video_marks
from probe.inputs.text import AnswerTokenizer, PromptCache, Words, token_map
from probe.inputs.videos import Video, VideoLike, open_videos
from probe.runtime import Runtime
from probe.tokens.layout import ImageLayout
from probe.tokens.spans import TokenMap

Resize = Literal["processor", "stretch", "pad"]
RESIZES = get_args(Resize)
"""What `probe.load` takes as resize."""
_VIDEO_TOKEN = ("video_token_id", "video_token_index")
"""Names that configurations give to the id of video tokens."""


@dataclass(frozen=True)
class ImagePreparation:
    """How images reach the vision tower: as the checkpoint's processor prepares them, or resized directly to the tower's input.

    Attributes:
        resize: one of `RESIZES`, as of `probe.load`.
        tiles: False: the base view alone.
    """

    resize: Resize = "processor"
    tiles: bool = True

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise LoadError(
                f'resize={self.resize!r}: "processor" (what the checkpoint does), "stretch" (directly to the tower\'s input) or "pad" (the same '
                "of the image in the middle of a square)."
            )

    def is_direct(self, backbone: Backbone, family: str) -> bool:
        """Whether images are resized directly, rather than by the processor.

        Raises:
            LoadError: resize="stretch" or "pad" with tiles=True, in a family that cuts tiles.
            NoDirectResize: the family does not declare a layout of directly resized images.
        """
        if self.resize != "processor" and self.tiles and backbone.tiled:
            raise LoadError(
                f'resize="{self.resize}" shows the whole image as one square, and this family would cut tiles of it. Load it with tiles=False '
                "as well."
            )
        direct = self.resize != "processor" or (backbone.tiled and not self.tiles)
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
        self._prompts = PromptCache()

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
        processor, padded = self._processor_for("prepare"), self.preparation.resize == "pad"
        inputs, layouts = runtime.backbone.prepare_directly(runtime.model, processor, opened, padded=padded)
        return PreparedImages(opened, inputs, tuple(layouts), made_for=self.preparation)

    def moved_to_device(self, images: PreparedImages) -> PreparedImages:
        """The same images, with the inputs that were prepared for them on the model's device."""
        return images if images.inputs is None else replace(images, inputs=self.runtime.to_device(images.inputs))

    def encode(
        self,
        images: ImageLike | Sequence[ImageLike] | PreparedImages | None,
        text: str | Messages,
        *,
        videos: VideoLike | Sequence[VideoLike] | None = None,
        chat: bool = True,
        template: str | None = None,
    ) -> Encoding:
        """Images, videos and a prompt as the model takes them: see `Probe.encode`."""
        runtime, processor = self.runtime, self._processor_for("encode")
        prepared = self.prepare(images)
        if not runtime.has_decoder:
            return _without_prompt(runtime, processor, prepared, text)
        shown = self._opened_videos(processor, videos, prepared)
        _check_number(prepared, runtime)
        if template is None and getattr(processor, "chat_template", None) is None and isinstance(text, str):
            template = runtime.backbone.template
        marked = runtime.backbone.marks_images
        marks = image_marks(processor, len(prepared.images) * marked, runtime.modules.image_token_id)
        prompt, words = build_prompt(processor, text, marks, video_marks(processor, len(shown) * marked), chat=chat, template=template)
        inputs, layouts, media = self._inputs(processor, prepared, shown, prompt, marks.token)
        tokens = self._token_map(processor, inputs, layouts, media, words)
        tokens.check_layouts()
        answer_tokenizer = AnswerTokenizer(tokenizer_of(processor), marks.token)
        return Encoding(runtime.to_device(inputs), tokens, prompt, len(tokens), answer_tokenizer, runtime.backbone.answer_fill)

    def encode_question(self, images: PreparedImages, text: str, *, chat: bool = True, template: str | None = None) -> Encoding:
        """As `encode`: a question that was asked about other images before is not tokenised again.

        Args:
            images: on the model's device.
        """
        if self.processor is None or images.inputs is None or images.layouts is None or images.made_for is not self.preparation:
            return self.encode(images, text, chat=chat, template=template)  # the processor decides how many tokens an image has
        counts, tokenizer = tuple(layout.tokens for layout in images.layouts), tokenizer_of(self.processor)
        written_by = (str(getattr(self.processor, "chat_template", None)), len(tokenizer), tokenizer.bos_token)
        key = (text, chat, template, counts, self.runtime.model.device, written_by)
        known = self._prompts.find(key, images.inputs, images.layouts)
        if known is None:
            known = self.encode(images, text, chat=chat, template=template)
            self._prompts.keep(key, known, images.inputs)
        return known

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

    def _opened_videos(self, processor: Processor, videos: VideoLike | Sequence[VideoLike] | None, images: PreparedImages) -> list[Video]:
        """The videos of a prompt.

        Raises:
            ImageError: the family takes none, or images are resized directly beside them.
        """
        door = getattr(processor, "video_processor", None)
        if videos is not None and not takes_videos(processor):
            raise ImageError(
                f"{self.runtime.family} takes no videos: {type(processor).__name__} has nothing that prepares them. Pass frames as images, or "
                f"load a family that does: {', '.join(families_of_videos())}."
            )
        if videos is not None and images.inputs is not None:
            raise ImageError(
                "Images that are resized directly cannot stand beside a video, which the processor prepares. Encode them apart."
            )
        return open_videos(videos, door)

    def _inputs(
        self, processor: Processor, prepared: PreparedImages, videos: Sequence[Video], prompt: str, token: str
    ) -> tuple[dict[str, Tensor], list[ImageLayout | None], Media]:
        """What the model takes for a prompt, where each image's tokens lie, and those of its videos."""
        model, backbone, tokenizer = self.runtime.model, self.runtime.backbone, tokenizer_of(processor)
        # A chat template that writes the beginning-of-sequence token itself must not get a second one.
        written = tokenizer.bos_token and prompt.startswith(tokenizer.bos_token)
        options = {"return_tensors": "pt"} | ({"add_special_tokens": False} if written else {})
        if prepared.inputs is None or prepared.layouts is None:
            cached, replaced = with_replacements(with_image_cache(processor, prepared.image_cache))
            arguments = backbone.processor_arguments(processor, prepared.images, videos, prompt)
            processed = processed_by(cached, {**arguments, **options}, self.runtime.family)
            sizes = [(image.height, image.width) for image in prepared.images]
            images = [ProcessedImage(model, processor, size, processed, index) for index, size in enumerate(sizes)]
            media = self._media(processor, processed, videos, replaced)
            return backbone.prompt_inputs(model, processed), [backbone.layout(image) for image in images], media
        pieces = prompt.split(token)
        expanded = pieces[0] + "".join(token * layout.tokens + piece for layout, piece in zip(prepared.layouts, pieces[1:], strict=True))
        return {**tokenizer(expanded, **options), **prepared.inputs}, list(prepared.layouts), Media()

    def _media(
        self, processor: Processor, processed: Mapping[str, Tensor], videos: Sequence[Video], replaced: Sequence[Replacement]
    ) -> Media:
        """What the processor put in for each image and video, and where each video's tokens lie on its frames."""
        runtime, config = self.runtime, self.runtime.model.config
        video_token = next((token for name in _VIDEO_TOKEN if (token := getattr(config, name, None)) is not None), None)
        texts = {token_text(tokenizer_of(processor), token) for token in (runtime.modules.image_token_id, video_token)} - {""}
        counts = [(one.kind, sum(map(one.text.count, texts))) for one in replaced]
        layouts = [
            runtime.backbone.video_layout(ProcessedVideo(runtime.model, processor, video.size, len(video.frames), processed, index))
            for index, video in enumerate(videos)
        ]
        return Media(layouts, counts, video_token)

    def _token_map(
        self,
        processor: Processor,
        inputs: Mapping[str, Tensor],
        layouts: Sequence[ImageLayout | None],
        media: Media,
        words: Words | None,
    ) -> TokenMap:
        """The names of the positions of the decoder's sequence."""
        runtime = self.runtime
        own = inputs["decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"][0]
        marks = inputs.get(runtime.backbone.image_mask)
        leading = runtime.backbone.leading(runtime.model, inputs)
        ids = runtime.known_ids(own.tolist(), leading, None if marks is None else marks[0].tolist())
        needed = layouts and runtime.backbone.marks_images and not runtime.backbone.image_mask
        token_id = runtime.image_token_id if needed else runtime.modules.image_token_id
        return token_map(runtime.family, tokenizer_of(processor), token_id, ids, layouts, words, media, runtime.backbone.no_grid_reason)


def _check_number(prepared: PreparedImages, runtime: Runtime) -> None:
    """Raise ImageError for more images than a prompt of this family can have."""
    given, most = len(prepared.images), runtime.backbone.image_limit
    if most is not None and given > most:
        takes, instead = ("one image a prompt", "Encode them one by one.") if most else ("no images", "Pass videos=.")
        raise ImageError(f"{runtime.family} takes {takes}, {given} {'was' if given == 1 else 'were'} given. {instead}")


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
