"""Discovery of a block's parts from the source of its forward."""

from __future__ import annotations

import textwrap

import pytest
import torch
from torch import Tensor, nn

from probe.tracing.parts import BlockParts, block_parts, changed_between_blocks, final_norm


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 2
        self.q_proj, self.v_proj, self.o_proj = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, None]:
        heads = self.q_proj(hidden_states) * self.v_proj(hidden_states)
        return self.o_proj(heads), None


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp, self.mixer = Attention(), nn.Linear(4, 4), Attention()
        self.norm, self.norm_behind, self.dropout = nn.LayerNorm(4), nn.LayerNorm(4), nn.Dropout()
        self.norm_after, self.multiplier = False, 0.5


class PreNorm(Base):
    def forward(self, hidden_states: Tensor) -> Tensor:
        residual = hidden_states
        hidden_states, _ = self.self_attn(self.norm(hidden_states))
        hidden_states = residual + self.dropout(hidden_states) * self.multiplier
        hidden_states += nn.functional.dropout(self.mlp(self.norm(hidden_states)), p=0.0)
        return hidden_states


class Parallel(Base):
    def forward(self, hidden_states: Tensor) -> Tensor:
        normed = self.norm(hidden_states)
        attended = self.self_attn(normed)[0]
        return self.mlp(normed).view(normed.shape) + attended + hidden_states


class NormBehind(Base):
    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        residual = hidden_states
        hidden_states, _ = self.self_attn(hidden_states)
        if self.norm_after:
            hidden_states = self.norm_behind(hidden_states)
        hidden_states = residual + hidden_states
        return hidden_states + self.mlp(hidden_states), None


class Hybrid(Base):
    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.norm_after:
            mixed, _ = self.self_attn(hidden_states)
        else:
            mixed, _ = self.mixer(hidden_states)
        hidden_states = hidden_states + mixed
        return hidden_states + self.mlp(hidden_states)


class NormedSum(Base):
    def forward(self, hidden_states: Tensor) -> Tensor:
        hidden_states = self.norm(hidden_states + self.self_attn(hidden_states)[0])
        return self.norm_behind(hidden_states + self.mlp(hidden_states))


def found(block: nn.Module, attention: str | None = "b.self_attn") -> BlockParts:
    return block_parts("b", block, attention, {})


@pytest.mark.parametrize("kind", [PreNorm, Parallel])
def test_parts_are_the_modules_whose_outputs_are_added_last(kind: type[nn.Module]) -> None:
    assert found(kind()) == BlockParts("b.self_attn", "b.mlp", "b.self_attn.o_proj", 2)


def test_conditions_on_the_block_itself_are_decided() -> None:
    block = NormBehind()
    assert found(block).attention == "b.self_attn"
    block.norm_after = True
    assert found(block).attention == "b.norm_behind"


def test_a_mixer_in_place_of_attention_is_one_of_the_others() -> None:
    assert found(Hybrid(), None) == BlockParts(None, "b.mlp", others=("b.mixer",))


def test_a_block_that_returns_no_sum_has_no_parts_unless_they_are_declared() -> None:
    assert found(NormedSum()) == BlockParts(projection="b.self_attn.o_proj", heads=2)
    declared = block_parts("b", NormedSum(), "b.self_attn", {"attention": "self_attn", "mlp": "mlp", "cross": "not_there"})
    assert declared == BlockParts("b.self_attn", "b.mlp", "b.self_attn.o_proj", 2)


def test_a_class_without_source_has_no_parts() -> None:
    names: dict[str, type[nn.Module]] = {"Base": Base}
    exec(textwrap.dedent("class Block(Base):\n    def forward(self, x):\n        return x + self.mlp(x)"), names)
    assert found(names["Block"]()) == BlockParts(projection="b.self_attn.o_proj", heads=2)


def test_the_final_norm_is_the_one_behind_the_blocks() -> None:
    class Decoder(Base):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([PreNorm()])

        def forward(self, hidden_states: Tensor) -> Tensor:
            hidden_states = self.norm(hidden_states)
            for number, layer in enumerate(self.layers):
                hidden_states = layer(hidden_states, number)
            hidden_states = self.norm_behind(hidden_states)
            return self.mlp(hidden_states)

    class WithoutNorm(Decoder):
        def forward(self, hidden_states: Tensor) -> Tensor:
            hidden_states = self.norm(hidden_states)
            for layer in self.layers:
                hidden_states = layer(hidden_states)
            return torch.relu(hidden_states)

    assert final_norm(Decoder()) == "norm_behind"
    assert final_norm(WithoutNorm()) is None


def test_states_that_are_changed_between_blocks_are_seen() -> None:
    class Plain(Base):
        def forward(self, hidden_states: Tensor) -> Tensor:
            for layer in self.layers:
                outputs = layer(hidden_states, None)
                hidden_states = outputs[0]
            return hidden_states

    class DeepStack(Base):
        def forward(self, hidden_states: Tensor, image: list[Tensor]) -> Tensor:
            for number, layer in enumerate(self.layers):
                hidden_states = layer(hidden_states)
                if number < len(image):
                    hidden_states = hidden_states + image[number]
            return hidden_states

    assert not changed_between_blocks(Plain())
    assert changed_between_blocks(DeepStack())
