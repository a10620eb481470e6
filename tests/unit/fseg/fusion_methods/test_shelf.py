"""The fusions beyond the paper, on maps of four cells that a reader can work out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import probe
from fseg.errors import InvalidBand, InvalidOption, NotScoped
from fseg.evidence import Context
from fseg.fusion_methods.maps import rank_gaussian, share_of_peak
from fseg.fusion_methods.tam import core
from fseg.stages.tvr import Respond
from probe.tokens.spans import Span, TokenMap
from probe.tracing.activation import Activation
from tests.unit.fseg.fakes import FakeTrace, evidence

ROWS = torch.tensor(
    [
        [[[0.1, 0.1, 0.1, 0.1]], [[0.4, 0.0, 0.1, 0.1]]],  # block 0: its heads look everywhere, and at cell 0
        [[[0.2, 0.2, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.9]]],  # block 1: at the upper row, and at cell 3
    ]
)


def test_heads_are_summed_where_the_sum_exceeds_its_mean():
    e = Respond("heads", {"heads": ((0, 1), (1, 0)), "sigma": 0})(evidence(trace=FakeTrace(rows=ROWS)))
    assert e.response.tolist() == [[1.0, 0.0], [0.0, 0.0]]  # 0.6, 0.2, 0.1, 0.1: the mean is 0.25
    e = Respond("heads", {"heads": ((1, 0), (1, 1)), "sigma": 0.0})(evidence(trace=FakeTrace(rows=ROWS)))
    torch.testing.assert_close(e.response, torch.tensor([[0.0, 0.0], [0.0, 1.0]]))  # 0.2, 0.2, 0, 0.9: the mean is 0.325


def test_without_names_an_image_chooses_the_heads_of_low_entropy_that_look_at_it():
    e = Respond("heads", {"top_k": 1, "sigma": 0.0})(evidence(trace=FakeTrace(rows=ROWS)))
    # Of the masses 0.4, 0.6, 0.4, 0.9 the median is 0.5. Both heads above it have one blob; the heavier comes first.
    assert e.response.tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_heads_read_only_their_blocks_and_are_checked():
    (read,) = Respond("heads", {"heads": [[14, 1], [3, 0], [14, 24]]}).reads()
    assert read == probe.Attention(layers=(3, 14), query="before answer", key="image", heads="all")
    with pytest.raises(InvalidOption, match=r"heads=\(\(14,\),\): takes pairs of a decoder block and a head"):
        Respond("heads", {"heads": [[14]]})
    with pytest.raises(InvalidOption, match=r"this model's blocks have heads 0 to 1, there is no \(0, 2\)"):
        Respond("heads", {"heads": [[0, 2]]})(evidence(trace=FakeTrace(rows=ROWS)))
    with pytest.raises(InvalidOption, match="query"):
        Respond("heads", {"query": "image"})


class FakeLens:
    """Log-probabilities by token, whatever the state: at cell or token v, of token w, `values[w][v]`."""

    def __init__(self, values: dict[int, list[float]]) -> None:
        self.values = values

    def __call__(self, activation: Activation, words: Sequence[int], *, logits: bool) -> Activation:
        layers, _, tokens, _ = activation.data.shape
        table = torch.stack([torch.tensor(self.values[word])[:tokens] for word in words], dim=-1)
        return Activation((table if logits else table.log()).expand(layers, 1, -1, -1), ("layer", "batch", "token", "word"))


def lensed(values: dict[int, list[float]], spans: dict[str, tuple[int, ...]]) -> Respond:
    """Evidence with a lens over four cells, and tokens 0, 1, 2, ... whose ids are their positions."""
    tokens = TokenMap(tuple(range(9)), (), (), {name: Span(places) for name, places in spans.items()})
    states = {name: {8: torch.zeros(max(len(places), 1), 2)} for name, places in spans.items()} | {"image": {8: torch.zeros(4, 2)}}
    return evidence(trace=FakeTrace(states, tokens=(tokens,)), context=Context(FakeLens(values), {}))


def test_the_lens_takes_the_likeliest_piece_of_the_name():
    e = lensed({5: [0.1, 0.2, 0.0, 0.4], 6: [0.3, 0.1, 0.0, 0.2]}, {"class": (5, 6)})
    found = Respond("lens", {"layers": (8, 8)})(e)
    torch.testing.assert_close(found.response, torch.tensor([[0.75, 0.5], [0.0, 1.0]]))  # 0.3, 0.2, 0, 0.4


def test_a_name_that_repeats_a_piece_has_a_lens():
    e = lensed({5: [0.1, 0.2, 0.0, 0.4]}, {"class": (5, 5)})
    torch.testing.assert_close(Respond("lens", {"layers": (8, 8)})(e).response, torch.tensor([[0.25, 0.5], [0.0, 1.0]]))


def test_relative_attention_divides_by_that_of_the_generic_question():
    generic = FakeTrace(rows=torch.tensor([[[[0.2, 0.2, 0.1, 0.4]]]]))
    own = FakeTrace(rows=torch.tensor([[[[0.1, 0.2, 0.3, 0.4]]]]))
    context = Context(FakeLens({}), {"What is this?": generic})
    stage = Respond("relative", {"layers": (1, 1), "generic": "What is this?"})
    assert stage.questions() == {"What is this?": tuple(stage.reads())}
    assert stage.reads() == [probe.Attention(layers=(0,), query="before answer", key="image", heads="mean")]
    torch.testing.assert_close(stage(evidence(trace=own, context=context)).response, torch.tensor([[0.5, 1.0], [3.0, 1.0]]) / 3)


def test_a_band_of_attention_has_a_block():
    with pytest.raises(InvalidBand, match="index 0 is the embeddings, which no block writes"):
        Respond("relative", {"layers": (0, 0)})
    assert Respond("relative", {"layers": (0, 3)}).reads()[0].layers == (0, 1, 2)


@pytest.mark.parametrize("name", ["relative", "lens"])
def test_what_was_not_gathered_is_refused(name: str):
    with pytest.raises(NotScoped, match=r"the (question 'Write a general description of the image\.'|lens at 'image') is not among"):
        Respond(name, {"layers": (1, 1)})(evidence(trace=FakeTrace({"image": {1: torch.zeros(4, 2)}}, rows=ROWS)))


def test_the_contexts_activation_is_subtracted_at_its_best_scale():
    own, context = torch.tensor([2.0, 1.0, 0.0, 1.0]), torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 0.0, 2.0]])
    # I = 1.5, 0.5, 0.5, 1.5; s = (3 + 0.5 + 1.5) / (2.25 + 0.25 + 0.25 + 2.25) = 1.
    assert core(own, context, torch.tensor([1.0, 1.0])).tolist() == [0.5, 0.5, 0.0, 0.0]
    assert core(own, context, torch.tensor([0.0, 0.0])).tolist() == own.tolist()  # a context without a say


def test_the_token_activation_map_is_of_the_last_piece():
    own: Tensor = torch.tensor([2.0, 1.0, -3.0, 1.0])
    values = {6: own.tolist(), 5: [9.0] * 4, 1: [1.0, 1.0, 1.0, 1.0], 2: [2.0, 0.0, 0.0, 2.0]}
    found = Respond("tam", {"layers": (8, 8)})(lensed(values, {"class": (5, 6), "context": (1, 2)}))
    # The relevance of both tokens of the context is that of piece 6: 2 and 1. I = (2 x 1 + 1 x (2, 0, 0, 2)) / 3 = 4/3, 2/3, 2/3, 4/3;
    # s = (8/3 + 2/3 + 4/3) / (16/9 + 4/9 + 4/9 + 16/9) = 1.05; what is left: 0.6, 0.3, 0, 0, then the rank filter over 2 x 2 cells.
    left = torch.tensor([[0.6, 0.3], [0.0, 0.0]])
    torch.testing.assert_close(found.response, share_of_peak(rank_gaussian(left)))
