"""docs/speed.md from the captured figures."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

from tests.benchmarks.models import Size
from tests.benchmarks.timing import table

INTRODUCTION = """# Speed and memory

Every figure is taken beside what a user would otherwise do, in one process, in turns; times are medians after a warm-up. Ratios of single
forwards are the medians of the quotients in the same repeat; the small model has 100 repeats of them. The models are LLaVA-1.5 with 576
image tokens and random weights: `mid` is 512 wide with 16 blocks, in float32; `full` has LLaVA-1.5-7B's dimensions, in bfloat16, and its
answers' words are forced, since in that precision another order of sums would choose others among random ones. `embedded` is the tiny
model of the package. Without a GPU the full size is measured shortly: three repeats of a forward, one run of all else without a warm-up,
and no 2,900 tokens, at which eager attention alone would hold 17 GB. Run them again:

```bash
python -m tests.benchmarks --size embedded --size mid --size full --page docs/speed.md
```
"""

SECTIONS = {
    "startup": (
        "Start-up",
        "Fresh processes, in turns: each import and command against `import torch` alone. What only prints text does not import torch.",
    ),
    "tests": ("Tests", "The README's test command, and the subset for daily work (`pytest tests/unit`), with the imports of both."),
    "rows": (
        "Attention rows",
        "`probe.Attention` of the last 10 tokens, every layer and head, to every key, under sdpa; against the plain forward, and against Hugging "
        "Face's eager attention with `output_attentions=True`. Held is what remains in memory afterwards.",
    ),
    "overhead": (
        "Hidden states",
        "The image tokens' states of every layer: `probe.Hidden`, forward hooks on every block that keep the same slices, and "
        "`output_hidden_states=True`; all three give equal tensors.",
    ),
    "edits": (
        "Parts of a block, and edits",
        "700 tokens, the image's 576 of every block: `probe.AttentionOutput` and `probe.MLPOutput` read, and a vector added by `probe.edit.add`; "
        "against forward hooks that do the same. Tensors and logits are equal to the bit.",
    ),
    "questions": (
        "Many questions about one image",
        "40 tokens of answer to each question: Hugging Face's `generate()` one by one, against `session.ask`. The ratio that the operation count "
        "allows is of multiplications in the decoder's blocks, unmasked pairs only; it may be exceeded, because many sequences at once use the processor "
        "better than one token at a time does, and because the count leaves the vision tower out. One token at a time waits for memory, many wait "
        "for arithmetic: the ratio is the machine's, too. One by one, 20 questions were timed at most (2 at full size), and their mean stands for each "
        "of all. The answers of all three ways are equal (at full size all words are forced).",
    ),
    "image": (
        "A whole image",
        "The method of `fseg-llava-1.5` up to the prompts for SAM: 20 classes, 2 of them present, answers of 40 tokens, and of 3 for a no. Against "
        "one `generate()` a class with eager attentions and hidden states, written with Hugging Face alone. The maps are D~ "
        "and A_v of the two ways; what they differ by is the largest difference.",
    ),
    "outside": (
        "Outside of the model",
        "The same method, the classes asked of an image for the second time: the process's own time up to the prompts for SAM, and how much of it is "
        "spent outside of the model's forwards (what is read in them counts as theirs): encoding, gate, choosing tokens, stages.",
    ),
    "variants": (
        "Many edited runs of one input",
        "700 tokens: `probe.causal_trace` over every layer, at the last 20 positions one by one, and at all image tokens at once; against one whole run "
        "for each layer and place, with the clean run's states put there, in three ways: forward hooks on plain Hugging Face, one trace of nnsight alone for "
        "each run, and `run_with_hooks` of TransformerLens's bridge, whose attention is eager (the others have sdpa). All in one process, over the same "
        "weights, with logits of the last position alone; each way's time has the run that keeps the clean states in it. Where fewer whole runs were timed "
        "than there are (`timed`, drawn with a fixed seed), `s` is their mean times the number of all. All give the same numbers; what "
        "they differ by from `causal_trace` is the largest difference of the metric among the runs that were timed.",
    ),
    "many": (
        "Many images",
        "Images of three sizes with questions of three lengths, from opened image and text to the states of the image's tokens at every layer, and to "
        "answers of 32 tokens: `run_many` and `generate_many` over a generator that encodes, `run` and `generate` one by one, plain Hugging Face one by "
        "one, and its padded batches of four as one writes them by hand. The hidden states are equal but for the order of sums, over the largest "
        "value; the answers' tokens are equal. Each forward of Hugging Face computes the logits of one position.",
    ),
    "collect": (
        "Many images, kept on disk",
        "`probe.collect` of the image tokens' states, in float16: images are opened, hashed, encoded and run, and what is read is written; against the plain "
        "forward alone over inputs that are ready, and against a loop of plain Hugging Face that encodes each image, runs it with "
        "`output_hidden_states=True` and saves with `torch.save`. Beyond the model is how much the process grows at most.",
    ),
    "store": (
        "Reading a store",
        "Every layer of the image tokens of the embedded model, in float32. One item at one layer, of random items, warm, with the sum of its values; memory "
        "touched is by how much the process grows as it reads a first one, which the kernel rounds up to whole pages. Rows of one layer in batches of "
        "256 by a DataLoader without workers: `store.dataset` in random order, and `store.shuffled`.",
    ),
    "memory": (
        "From image to image",
        "Resident memory of one process that segments 200 scenes, one after the other: as it is, where it varies from run to run by some percent "
        "with what the C library keeps free for later, and when that is given back behind each image.",
    ),
    "drafts": (
        "Drafted answers",
        "Held-out scenes, the embedded model: all 20 classes asked of each, and those that it says are present alone. A step is one answer's part "
        "in one pass; without drafts there is one for each token. Each answer's tokens are those of plain greedy decoding. The time of `ask` is "
        "the process's own, without and with drafts in turns.",
    ),
    "fast": (
        "The fast recipe",
        "Held-out scenes, all 20 classes asked of each, the embedded model: `glyphs`, and `glyphs-fast`, which generates nothing and uses D alone.",
    ),
}


def write(folder: Path, page: Path) -> None:
    """Put the tables of every JSON file in a folder on one page; those of several sizes, taken on one machine, in one table."""
    parts = [INTRODUCTION]
    for name, (title, text) in SECTIONS.items():
        files = [folder / f"{name}.json", *(folder / f"{name}-{size}.json" for size in get_args(Size))]
        captured: list[dict[str, Any]] = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
        if captured:
            parts.append(f"## {title}\n\n{text}\n")
        for (_, machine), same in groupby(captured, key=lambda figures: (list(figures["rows"][0]), figures["machine"])):
            rows = [row for figures in same for row in figures["rows"]]
            parts.append(f"{table(rows)}\n\n{'; '.join(machine.values())}.\n")
    page.write_text("\n".join(parts), encoding="utf-8")
