"""Backbone: what a family of models declares. Only what discovery cannot find belongs here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

from PIL import Image
from torch import Tensor

from probe.backbones.processed_image import ProcessedImage
from probe.backbones.processed_video import ProcessedVideo
from probe.errors import NoDirectResize
from probe.tokens.layout import Grid, ImageLayout
from probe.tokens.video import VideoLayout

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, ProcessorMixin

    from probe.inputs.videos import Video

Factor: TypeAlias = "float | Tensor"
"""What a block multiplies a part by: a number, or a tensor that broadcasts to (batch, token, feature)."""

SHARING: tuple[str, ...] = ("packed", "batched")
"""`Backbone.prefix` of most families: the decoder takes any mask, cache and positions, and image tokens are causally masked."""


class Backbone:
    """A family of models. The defaults are those of an undeclared family: every read works, but image tokens cannot be folded into a grid.

    Subclasses are registered for a `config.model_type` with `probe.register`.

    Example:
        >>> @probe.register("doctest_family")
        ... class DoctestFamily(probe.Backbone):
        ...     def layout(self, image):
        ...         return probe.ImageLayout((probe.Grid.whole(4, 4, image.size),))
        >>> "doctest_family" in probe.backbones.registered()
        True
    """

    tiled: ClassVar[bool] = False
    """Whether the family's processor cuts an image into tiles, in addition to a base view."""

    answer_fill: ClassVar[Mapping[str, int | None]] = {"attention_mask": 1, "token_type_ids": 0, "mm_token_type_ids": 0}
    """The value of an answer's tokens in each input that has one value a token; None: the value of the prompt's last token."""

    no_grid_reason: ClassVar[str] = ""
    """Why the image tokens correspond to no cells of the image, in a family where they do not; `.grid()` raises with it."""

    template: ClassVar[str | None] = None
    """The prompt of checkpoints without a chat template: a name or text as `encode(template=...)` takes it."""

    marks_images: ClassVar[bool] = True
    """Whether a prompt has one image token for each image; False: the processor itself puts the image tokens before the prompt, or there are
    none."""

    image_limit: ClassVar[int | None] = None
    """How many images a prompt can have; None: any number."""

    image_mask: ClassVar[str] = ""
    """The input that is 1 at the image tokens, in a family where no token id says which they are."""

    class_tokens: ClassVar[Literal["first", "last", "kept"]] = "first"
    """Where the tower puts its class tokens. "first" or "last": `Vision` leaves them out; "kept": they lie between the patches, and `Vision`
    keeps them."""

    projected_states: ClassVar[bool] = True
    """Whether the `image_hidden_states` of Hugging Face's output are the projected tokens; False: those before the projector."""

    prefix: ClassVar[tuple[str, ...]] = ()
    """How questions can share the image's part of the prompt and still get the same answers, the best first: "packed" (one row, kept apart
    by a mask), "batched" (rows of a batch). Empty: each question is asked alone."""

    no_prefix_reason: ClassVar[str] = ""
    """Why questions cannot share the image's part of the prompt, in a family where they cannot."""

    no_generate_reason: ClassVar[str] = ""
    """Why the family's own `generate()` does not go on from the sequence that is read, in a family where it does not."""

    alone_reason: ClassVar[str] = ""
    """Why several inputs cannot be the rows of one batch, in a family where that changes what each of them gives."""

    equal_prompts_reason: ClassVar[str] = ""
    """Why only prompts of equal length are answered in one batch, in a family where padding on the left changes the answers."""

    same_shape: ClassVar[frozenset[str]] = frozenset()
    """The inputs that have to agree in shape among the rows of a batch, in a family where padding them changes what the rows give."""

    joined_along: ClassVar[Mapping[str, int]] = {}
    """The axis along which an input of several rows is concatenated, where that is not the first."""

    counts_cached: ClassVar[bool] = False
    """Whether a forward places a token by how many are in the cache, whatever position it is given."""

    axes: ClassVar[tuple[str, ...]] = ("batch", "token", "feature")
    """The axes of a decoder block's output. `stream` stands for residual streams, which `Hidden` concatenates along the features."""

    last_is_normed: ClassVar[bool] = True
    """Whether the last of Hugging Face's `hidden_states` is after the final norm; False: it is the last block's output."""

    part_paths: ClassVar[Mapping[str, str]] = {}
    """The modules inside a decoder block whose outputs it adds to the residual stream, in families where discovery does not find them:
    "attention" (in a block without attention: what mixes its tokens), "mlp", and by any other name what it adds besides; "projection": the
    attention's output projection, if it is outside the attention module. A block has those of them that are there."""

    sum_reason: ClassVar[str] = ""
    """Why a hidden state is not the one before it plus what the block's parts add, by `residual_factors`; "" in families where it is, and
    where discovery sees the reason: the states are changed between blocks."""

    unreadable: ClassVar[Mapping[str, str]] = {}
    """Reads ("Hidden", "Attention", "Vision", "Projected", "Logits", "AttentionOutput", "MLPOutput", "HeadOutput", "Queries", "Keys", "Values")
    that this family cannot give -> why, and what to read instead."""

    def residual_factors(self, block: nn.Module) -> tuple[Factor, Factor, Factor]:
        """How a decoder block scales what it adds up: (attention, MLP, the residual stream that comes in).

        A block's output is `residual * third + attention * first + mlp * second`. The default knows the names that transformers gives such
        factors, since families take text models of other families: Granite's `residual_multiplier` and Gemma 4's `layer_scalar`.

        Returns:
            numbers, or tensors that broadcast to (batch, token, feature).
        """
        part, whole = getattr(block, "residual_multiplier", 1.0), getattr(block, "layer_scalar", 1.0)
        return part * whole, part * whole, whole

    def other_keys(self, model: PreTrainedModel) -> frozenset[int]:
        """The decoder blocks whose attention has keys that are not the sequence's, beside its own or in their place."""
        return frozenset(getattr(model.config.get_text_config(decoder=True), "cross_attention_layers", None) or ())

    def leading(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> int:
        """How many positions the model puts before `input_ids` for a row's images."""
        return 0

    def next_position(self, model: PreTrainedModel, length: int, row: int = 0) -> int:
        """The rotary position of the token after a prefix of `length` tokens, in a row of the forward's batch.

        It is called right after the forward over the prefix, and may read state that this forward left in the model: M-RoPE gives image
        tokens positions by row and column, so that the text after them continues from a smaller number.
        """
        return length + int(model.model.rope_deltas.flatten()[row]) if _takes_rows_and_columns(model) else length

    def suffix_inputs(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], positions: Tensor, length: int) -> dict[str, Tensor]:
        """The forward's inputs for tokens after a cached prefix, in addition to ids, mask and cache.

        Args:
            inputs: those of the prefix.
            positions: (row, token), the tokens' rotary positions.
            length: tokens of a row, those in the cache included.
        """
        return {"position_ids": positions.expand(3, -1, -1) if _takes_rows_and_columns(model) else positions}

    def text_inputs(self, model: PreTrainedModel) -> dict[str, object]:
        """What the model's forward needs beside the ids of one token of text, in a family whose forward insists on an image or a place."""
        return {}

    def processor_arguments(
        self, processor: ProcessorMixin, images: Sequence[Image.Image], videos: Sequence[Video], prompt: str
    ) -> dict[str, object]:
        """The arguments of the processor's call for a prompt, its images and its videos, of which it is to take every frame.

        Raises:
            TemplateError, ImageError: it cannot take them.
        """
        arguments: dict[str, object] = {"images": list(images) or None, "text": prompt}
        if videos:
            arguments |= {"videos": [video.frames for video in videos], "do_sample_frames": False, "return_metadata": True}
        if videos and all(video.metadata for video in videos):
            arguments["video_metadata"] = [video.metadata for video in videos]
        return arguments

    def prompt_inputs(self, model: PreTrainedModel, processed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's inputs of a prompt, from what the processor returned for it.

        Those of a model with an encoder have `decoder_input_ids`: what its answers begin with.

        Raises:
            TemplateError: the model needs more than a prompt.
        """
        return dict(processed)

    def renumbered(self, inputs: Sequence[Mapping[str, Tensor]]) -> Sequence[Mapping[str, Tensor]]:
        """The inputs of the rows of a batch, with numbers that count what all rows have: patches, for example."""
        return inputs

    def layout(self, image: ProcessedImage) -> ImageLayout | None:
        """Where the image tokens of one image lie on it, as the checkpoint's own processor made them.

        Returns:
            the layout, its boxes in pixels of the original image; None: not known.
        """
        return None

    def video_layout(self, video: ProcessedVideo) -> VideoLayout | None:
        """Where the tokens of one video lie on its frames, as the checkpoint's own processor made them; None: not known."""
        return None

    def vision_grid(self, model: PreTrainedModel, view: Grid | None) -> Grid | None:
        """The grid of the vision tower's patches over one image, its `tokens` in the tower's own order; None: not known.

        Args:
            view: the grid of the image tokens, if the tower's input is one image that is laid out in one view; None: several views, or not
                known. A tower with a fixed number of patches returns its grid then too; its box is not used.
        """
        return None

    def input_grid(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], index: int) -> Grid | None:
        """Of a vision encoder: the patches of one image of a batch, row by row, the box in pixels of the tower's input; None: not known.

        Args:
            inputs: what the model takes, of all images.
            index: of the image.
        """
        return None

    def prepare_directly(
        self, model: PreTrainedModel, processor: ProcessorMixin, images: Sequence[Image.Image], *, padded: bool = False
    ) -> tuple[dict[str, Tensor], list[ImageLayout]]:
        """Model inputs of whole images resized straight to the tower's input, and their layouts (`resize="stretch", tiles=False`).

        Args:
            padded: each image is put into the middle of a square first (`resize="pad"`).

        Raises:
            NoDirectResize: the family does not say how.
        """
        raise no_direct_resize(str(model.config.model_type))

    @property
    def resizes_directly(self) -> bool:
        """Whether the family implements `prepare_directly`."""
        return type(self).prepare_directly is not Backbone.prepare_directly

    @property
    def has_grid(self) -> bool:
        """Whether the family says where its image tokens lie on the image."""
        return not self.no_grid_reason and type(self).layout is not Backbone.layout

    def forward_inputs(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, object]:
        """The arguments of the model's forward and generate for these encoded inputs. It may run the vision tower."""
        return dict(inputs)


def _takes_rows_and_columns(model: PreTrainedModel) -> bool:
    """Whether the decoder has M-RoPE, with positions of time, row and column."""
    return hasattr(getattr(model, "model", None), "get_rope_index")


def no_direct_resize(family: str) -> NoDirectResize:
    """The error of a family whose images cannot be resized directly."""
    return NoDirectResize(
        f"{family} cannot be loaded with resize='stretch' or tiles=False: its backbone does not say how an image is laid out when it is "
        "resized directly. Load it with resize='processor' and tiles=True, the defaults."
    )
