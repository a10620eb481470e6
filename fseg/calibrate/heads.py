"""Localisation heads of a backbone (Kang et al., CVPR 2025, section 3): heads that look at the image, and at one place in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from attrs import evolve, frozen
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor

import probe
from fseg.calls import Steps
from fseg.checkpoints import DEFAULT
from fseg.errors import InvalidDataSet
from fseg.evaluation.datasets.readers import Sample
from fseg.evaluation.measure import check_size, true_labels
from fseg.evaluation.run.content import Prepared
from fseg.evaluation.run.job import Job, Task, Work, open_sweep, records_together, task_of
from fseg.evaluation.run.manifest import Manifest
from fseg.evaluation.run.records import Expected, Record
from fseg.evaluation.run.runner import run
from fseg.evidence import Evidence
from fseg.fusion_methods.attention import spatial_entropy
from fseg.pipeline import Segmenter, collect_evidence, reads_of, single_image
from fseg.recipe import Recipe
from fseg.stages.tvr import in_view
from probe.disk.files import write_atomically

PER_MAP = 10
"""The heads of lowest entropy that each class of each image selects, as in the paper; at most a quarter of those that may be selected."""


@frozen
class Head:
    """A head, counted from 0, and the share of the maps (one for each class of each image) that selected it."""

    block: int
    head: int
    selected: float


@frozen
class Ranking:
    """The heads of a backbone, the most often selected first.

    Attributes:
        recipe: with the first of them.
        heads: all that may be selected.
        threshold: the least mean attention to the image of a head that may be selected.
        maps: how many pairs of an image and a class were counted.
        images: how many images; `failures`: the errors of the others.
        manifest: of the data set and the models.
    """

    recipe: Recipe
    heads: tuple[Head, ...]
    threshold: float
    maps: int
    images: int
    failures: Mapping[str, str]
    manifest: Manifest


def rank_heads(
    job: Job,
    out: Path,
    count: int = 3,
    *,
    workers: int = 1,
    threads: int | None = None,
    batch: int | None = None,
    retry_failed: bool = False,
) -> Ranking:
    """Rank the heads of a backbone over the classes that the ground truth of a set shows, or continue to.

    Args:
        job: the images, and one recipe, which gets the heads found: in its own fusion if that takes heads, else in "heads" alone.
        out: the folder of the run, with the mass and the entropy of each head's maps.
        count: how many heads the recipe gets.
        workers, threads, batch, retry_failed: see `fseg.evaluation.run.runner.evaluate`.

    Raises:
        InvalidDataSet: no ground truth shows a class, or all images failed; and what `fseg.evaluation.run.runner.evaluate` raises.
    """
    ((name, recipe),) = job.rows.items()
    alone = recipe.with_({"respond.fusion": "heads"}).with_({"respond.heads": ()})
    # No mask is made: the embedded SAM stands in, so that none is looked for.
    task = _Observing(**_fields(task_of(replace(job, rows={name: alone}, sam=DEFAULT))))

    def finish(manifest: Manifest, records: Sequence[Record]) -> tuple[Manifest, list[Record]]:
        return manifest, list(records)

    manifest, records = run(task, out, finish, workers=workers, threads=threads, batch=batch, retry_failed=retry_failed)
    failures = {record.image: record.error for record in records if record.error is not None}
    files = [out / task.folder / f"{sample.name}.safetensors" for sample in task.samples if sample.name not in failures]
    observed = [load_file(file) for file in files]
    if not any(len(one["mass"]) for one in observed):
        raise InvalidDataSet(
            f"None of {len(task.samples)} images of {task.declared.name} shows a class in its ground truth ({len(failures)} failed)."
        )
    blocks = next(one["blocks"] for one in observed if len(one["mass"])).tolist()
    mass, entropy = (torch.cat([one[key] for one in observed if len(one["mass"])]).numpy() for key in ("mass", "entropy"))
    threshold = elbow(mass.mean(0).ravel())
    ranked = tuple(Head(blocks[block], head, share) for (block, head), share in selected(mass, entropy, threshold))
    chosen = tuple((one.block, one.head) for one in ranked[:count])
    into = recipe if "heads" in recipe.respond.options else alone.with_({"refine.beta": 1.0})  # its response is a share of the peak
    return Ranking(into.with_({"respond.heads": chosen}), ranked, threshold, len(mass), len(files), failures, manifest)


def elbow(values: NDArray[np.float32]) -> float:
    """Where the sorted values bend most: the value farthest from the line between the smallest and the largest.

    The paper takes the point of maximum curvature of the heads' mean attention to the image.
    """
    ordered = np.sort(values.astype(np.float64))
    line = np.linspace(ordered[0], ordered[-1], len(ordered))
    return float(ordered[np.abs(ordered - line).argmax()])


def selected(
    mass: Float[NDArray[np.float32], "map block head"], entropy: Float[NDArray[np.float64], "map block head"], threshold: float
) -> list[tuple[tuple[int, int], float]]:
    """The heads that may be selected, by the share of the maps in which they are among the few of lowest entropy; ties: lower mean entropy.

    A head may be selected if its mean attention to the image reaches the threshold, and by a map if its entropy there is finite.
    """
    heads = mass.shape[2]
    admitted = np.flatnonzero(mass.mean(0).ravel() >= threshold)
    per_map = min(PER_MAP, max(1, len(admitted) // 4))
    counts: Counter[int] = Counter()
    for own_mass, own_entropy in zip(mass.reshape(len(mass), -1)[:, admitted], entropy.reshape(len(mass), -1)[:, admitted], strict=True):
        order = np.lexsort((-own_mass, own_entropy))
        counts.update(admitted[[place for place in order if np.isfinite(own_entropy[place])][:per_map]].tolist())
    mean = np.where(np.isfinite(entropy), entropy, entropy[np.isfinite(entropy)].max(initial=0.0)).mean(0).ravel()
    ranked = sorted(admitted.tolist(), key=lambda head: (-counts[head], mean[head], head))
    return [(divmod(head, heads), counts[head] / len(mass)) for head in ranked]


@dataclass(frozen=True)
class _Observing(Task):
    """The pass over the images: mass and entropy of each head's maps are written as `heads/<image>.safetensors`. No pixel is counted."""

    folder: ClassVar[str] = "heads"

    def open(self, device: str | None) -> Work:
        return _Observer(self, open_sweep(self.job, device).segmenter)

    def expected(self) -> Expected:
        return Expected({}, self.declared.labels, self.declared.background, frozenset(sample.name for sample in self.samples))


@dataclass(frozen=True)
class _Observer:
    task: _Observing
    segmenter: Segmenter

    @property
    def together(self) -> int:
        return self.segmenter.images_together(self.task.batch)

    def model_names(self) -> dict[str, str]:
        return self.segmenter.model_names()

    def records(self, samples: Iterable[Sample], files: Path) -> Iterator[Record]:
        recipe, names = self.segmenter.recipe, self.segmenter.checked_names(self.task.classes)
        labels = {name: index + self.task.declared.background for index, name in enumerate(self.task.classes)}
        # The classes are known to be there. One token is generated, since the answer's first sentence is forced.
        ask, reads = evolve(recipe.ask, presence="assume", max_new_tokens=1), reads_of([recipe])

        def count(sample: Sample, read: Prepared[probe.PreparedImages], *, together: probe.ImageBatch) -> Steps[Record]:
            original = single_image(read.image)
            check_size(sample, read.truth, (original.height, original.width))
            truth = true_labels(self.task.declared, read.truth)
            shown = {name: synonyms[:1] for name, synonyms in names.items() if labels[name] in truth}
            found: dict[str, Tensor] = {"blocks": torch.zeros(0), "mass": torch.zeros(0), "entropy": torch.zeros(0)}
            if shown:
                with self.segmenter.model.open(read.image, keep=reads, template=recipe.ask.template, together=together) as session:
                    answers = yield from ask.steps(session, shown)
                    evidence = yield from collect_evidence(session, answers, reads)
                found = _observed(recipe, [in_view(e, recipe.respond.view) for e in evidence])
            content = save({name: values.contiguous() for name, values in found.items()})
            write_atomically(files / f"{sample.name}.safetensors", lambda file: file.write(content))
            return Record(sample.name, truth)

        return records_together(self.segmenter, self.together, samples, count)


def _observed(recipe: Recipe, evidence: Sequence[Evidence]) -> dict[str, Tensor]:
    """The mass and the spatial entropy of each head's map, (class, block, head), and the numbers of the blocks."""
    query = str(recipe.respond.options["query"])
    maps = torch.stack([e.fold_each(e.attention_heads(query, "image")[:, :, -1]).cpu() for e in evidence])
    entropy = spatial_entropy(maps.flatten(0, 2)).reshape(maps.shape[:3])
    trace = evidence[0].trace
    assert trace is not None, "a class that is assumed to be present is traced"
    blocks = trace.attention(query=query, key="image", heads="all").coords["layer"]
    return {"blocks": torch.tensor(blocks), "mass": maps.sum((-2, -1)), "entropy": entropy}


def _fields(task: Task) -> dict[str, Any]:
    return {each.name: getattr(task, each.name) for each in fields(Task)}
