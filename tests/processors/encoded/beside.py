"""Families whose prompt has no image token of its own: the processor puts the image first, or the decoder's sequence has none."""

from __future__ import annotations

import copy
from typing import Any

import transformers as hf

from tests.families import FAMILIES
from tests.processors.encoded.listing import SQUARE, encoded, square
from tests.processors.native import GEMMA
from tests.processors.offline import TILE, Pair, model, template, tokenizer


@encoded("blip", "git")
def captioner(name: str) -> Pair:
    words = tokenizer()
    processor = hf.BlipProcessor(square("Blip"), words) if name == "blip" else hf.GitProcessor(square(), words)
    return model(name, words), processor


@encoded("idefics")
def idefics(name: str) -> Pair:
    words = tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>")
    return model(name, words), hf.IdeficsProcessor(hf.IdeficsImageProcessor(image_size=TILE), words)


@encoded("kosmos-2")
def kosmos_2(name: str) -> Pair:
    words = tokenizer(grows=True)
    processor = hf.Kosmos2Processor(square(), words, 4)
    return model(name, words, latent_query_num=64), processor


class FewPatches(hf.Kosmos2_5ImageProcessor):  # type: ignore[misc, unused-ignore]
    """The processor asks for 4,096 patches, whatever its image processor was built with."""

    def __call__(self, images: Any, **options: Any) -> Any:
        return super().__call__(images, **options | {"max_patches": 256})


@encoded("kosmos-2.5")
def kosmos_2_5(name: str) -> Pair:
    words = tokenizer(boi_token="<image>", eoi_token="</image>", image_token="<pic>")
    images = FewPatches(patch_size={"height": 4, "width": 4})
    return model(name, words, vision_config={"max_num_patches": 256}), hf.Kosmos2_5Processor(images, words, num_image_tokens=4)


@encoded("instructblipvideo")
def instructblipvideo(name: str) -> Pair:
    words = tokenizer(grows=True)
    processor = hf.InstructBlipVideoProcessor(hf.InstructBlipVideoVideoProcessor(size=SQUARE), words, tokenizer(), num_query_tokens=4)
    return model(
        name, words, video_token_index=words.convert_tokens_to_ids("<video>"), qformer_config={"vocab_size": len(words)}
    ), processor


@encoded("florence2")
def florence2(name: str) -> Pair:
    words = tokenizer(image_token="<image>")
    images = square(edge=32)
    images.image_seq_length = 17
    return model(name, words, image_token_id="<image>"), hf.Florence2Processor(images, words)


class Underscored(hf.LlamaTokenizer):  # type: ignore[misc, unused-ignore]
    def __call__(self, text: str, **options: Any) -> Any:
        return super().__call__("▁" + text, **options)


@encoded("fuyu")
def fuyu(name: str) -> Pair:
    """Its tokenizer begins every text with an underscore, which the processor cuts off before the image tokens."""
    words = tokenizer("|SPEAKER|", "|NEWLINE|", "<0x04>")
    words.__class__ = Underscored
    images = hf.FuyuImageProcessor(size={"height": 28, "width": 42}, patch_size={"height": 7, "width": 7})
    return model(name, words, image_token_id="|SPEAKER|", patch_size=7), hf.FuyuProcessor(images, words)


@encoded("pix2struct")
def pix2struct(name: str) -> Pair:
    words = tokenizer()
    images = hf.Pix2StructImageProcessor(patch_size={"height": 4, "width": 4}, is_vqa=False)
    return model(name, words, vision_config={"seq_len": 64}), hf.Pix2StructProcessor(images, words)


@encoded("udop")
def udop(name: str) -> Pair:
    images = hf.LayoutLMv3ImageProcessor(apply_ocr=False, size=SQUARE)
    words = hf.UdopTokenizer()
    return model(name, words, decoder_start_token_id=0), hf.UdopProcessor(images, words)


@encoded("vision-encoder-decoder")
def donut(name: str) -> Pair:
    words = tokenizer()
    return model(name, words), hf.DonutProcessor(hf.DonutImageProcessor(size=SQUARE), words)


@encoded("pp_formulanet")
def pp_formulanet(name: str) -> Pair:
    words = tokenizer()
    images = hf.PPFormulaNetImageProcessor(size={"height": 56, "width": 56})
    return model(name, words), hf.PPFormulaNetProcessor(images, words)


@encoded("pp_chart2table")
def pp_chart2table(name: str) -> Pair:
    """The chat template writes every image token."""
    words = tokenizer("<img>", "<imgpad>", "</img>")
    images = hf.PPChart2TableImageProcessor(size={"height": 56, "width": 56})
    return model(name, words, image_token_index="<imgpad>"), hf.PPChart2TableProcessor(
        images, words, chat_template=template("<img>" + "<imgpad>" * 4 + "</img>")
    )


@encoded("t5gemma2", "shieldgemma2")
def gemma3(name: str) -> Pair:
    words = tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    kind = hf.ShieldGemma2Processor if name == "shieldgemma2" else hf.Gemma3Processor
    processor = kind(hf.Gemma3ImageProcessor(size=SQUARE), words, chat_template=template("<start_of_image>"), image_seq_length=4)
    ids: dict[str, Any] = {
        "image_token_index": "<image_soft_token>",
        "boi_token_index": "<start_of_image>",
        "eoi_token_index": "<end_of_image>",
    }
    if name == "t5gemma2":
        small, _ = FAMILIES["t5gemma2"]()
        encoder = copy.deepcopy(small.config.encoder)
        encoder.text_config.vocab_size = len(words)
        encoder.image_token_index, encoder.eoi_token_index = words.convert_tokens_to_ids(["<image_soft_token>", "<end_of_image>"])
        ids |= {"encoder": encoder, "eoi_token_index": "<end_of_image>"}
    return model(name, words, **ids), processor


@encoded("diffusion_gemma")
def diffusion_gemma(name: str) -> Pair:
    words = tokenizer(**GEMMA, grows=True)
    processor = hf.Gemma4Processor(
        hf.Gemma4AudioFeatureExtractor(),
        hf.Gemma4ImageProcessor(patch_size=4, pooling_kernel_size=2),
        words,
        hf.Gemma4VideoProcessor(),
        chat_template=template("<image_soft_token>"),
    )
    return model(name, words, image_token_id="<image_soft_token>"), processor
