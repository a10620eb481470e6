"""The embedded models on glyph scenes: whether memory grows from image to image, and what the fast recipe saves and costs."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from statistics import median

import psutil

import fseg
import probe
from fseg.glyphs.scenes import CLASSES, scene
from fseg.labels.metric import Counts, Presence, stack
from fseg.recipe import get_recipe
from fseg.stages.qap import says_yes
from fseg.vocabulary.questions import affirmation, question
from probe.sessions.decoding.drafting import Drafting


def memory(images: int = 200) -> list[dict[str, object]]:
    """Resident memory behind each of many images, segmented by one Segmenter; as it is, and without what the allocator keeps for later.

    What the allocator keeps differs from run to run by some percent, and says nothing of what is alive.
    """
    rows: list[dict[str, object]] = []
    quarter = images // 4
    for given_back in (False, True) if _malloc_trim() else (False,):
        used = _resident(images, given_back)
        first, last = max(used[:quarter]), max(used[-quarter:])
        rows.append(
            {
                "images": images,
                "free heap": "given back" if given_back else "kept",
                f"peak of the first {quarter}, MB": first,
                f"of the last {quarter}, MB": last,
                "last / first": f"{last / first:.3f}",
            }
        )
    return rows


def _resident(images: int, given_back: bool) -> list[float]:
    segmenter, process, give_back = fseg.Segmenter(), psutil.Process(), _malloc_trim()
    used = []
    for result in segmenter.map((scene(seed).image for seed in range(images)), CLASSES[:6]):
        assert isinstance(result, fseg.Result), result
        if given_back and give_back:
            give_back(0)
        used.append(process.memory_info().rss / 1e6)
    return used


def _malloc_trim() -> Callable[[int], int] | None:
    """The C library's function that returns free memory to the system; None: it has none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def fast(scenes: int = 100, first_seed: int = 0) -> list[dict[str, object]]:
    """The embedded default and its fast recipe on held-out scenes, all classes asked of each, the recipes in turn."""
    segmenters = {name: fseg.Segmenter(get_recipe(name)) for name in ("glyphs", "glyphs-fast")}
    counts: dict[str, list[Counts]] = {name: [] for name in segmenters}
    times: dict[str, list[float]] = {name: [] for name in segmenters}
    presence = dict.fromkeys(segmenters, Presence())
    for seed in range(first_seed, first_seed + scenes):
        shown = scene(seed)
        for name, segmenter in segmenters.items():
            start = time.perf_counter()
            result = segmenter(shown.image, CLASSES)
            times[name].append(time.perf_counter() - start)
            counts[name].append(Counts.of(result.labels, shown.labels, len(CLASSES) + 1))
            predicted, ground_truth = ([CLASSES.index(one) for one in given] for given in (result.present, shown.classes))
            presence[name] += Presence.of(predicted, ground_truth, len(CLASSES))
    return [
        {
            "recipe": name,
            "scenes": scenes,
            "s an image": median(times[name]),
            "mIoU": stack(counts[name]).total().mean_iou(),
            "sensitivity": presence[name].recall,
            "specificity": presence[name].rejections / (presence[name].rejections + presence[name].false_alarms),
        }
        for name in segmenters
    ]


def drafts(scenes: int = 500, first_seed: int = 0) -> list[dict[str, object]]:
    """The embedded model asked of all 20 classes of held-out scenes, with and without drafts, in turns; of each the same tokens."""
    model, ask = fseg.Segmenter().model, get_recipe("glyphs").ask
    questions = [question(name, ask.question, ask.article) for name in CLASSES]
    texts = [affirmation(name, ask.article) for name in CLASSES]
    rows = {"all": Drafting(), "present": Drafting()}
    took = {"plain": 0.0, "drafted": 0.0}
    for seed in range(first_seed, first_seed + scenes):
        prepared = model.prepare(scene(seed).image)

        def asked(way: str, wanted: list[int], prepared: probe.PreparedImages = prepared) -> tuple[list[probe.Answer], Drafting]:
            with model.open(prepared, template=ask.template) as session:
                session.answer(questions[:1], [""])
                start = time.process_time()
                found = session.ask(
                    [questions[number] for number in wanted],
                    max_new_tokens=ask.max_new_tokens,
                    drafts=None if way == "plain" else [texts[number] for number in wanted],
                )
                took[way] += (time.process_time() - start) * (len(wanted) == len(questions))
            return found, session.drafting

        every = list(range(len(questions)))
        plain, _ = asked("plain", every)
        drafted, counts = asked("drafted", every)
        present = [number for number in every if says_yes(plain[number].text)]
        alone, of_present = asked("drafted", present)
        assert [one.tokens.ids for one in drafted] == [one.tokens.ids for one in plain], f"scene {seed}"
        assert [one.tokens.ids for one in alone] == [plain[number].tokens.ids for number in present], f"scene {seed}"
        rows = {"all": rows["all"] + counts, "present": rows["present"] + of_present}
    return [
        {
            "classes asked": name,
            "scenes": scenes,
            "answers with other tokens": 0,
            "tokens": counts.tokens,
            "steps": counts.steps,
            "steps saved": counts.saved,
            "drafted": counts.drafted,
            "accepted": counts.accepted,
            "plain / drafted, processor time": took["plain"] / took["drafted"] if name == "all" else "",
        }
        for name, counts in rows.items()
    ]
