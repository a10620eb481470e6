from __future__ import annotations

import pytest
import torch

from fseg.fusion_methods.maps import gaussian, rank_gaussian, share_of_peak


def test_a_map_becomes_shares_of_its_peak():
    torch.testing.assert_close(share_of_peak(torch.tensor([[0.2, 0.1], [0.0, -0.1]])), torch.tensor([[1.0, 0.5], [0.0, -0.5]]))
    assert share_of_peak(torch.tensor([[0.0, -1.0]])).tolist() == [[0.0, -1.0]]  # positive nowhere


def test_a_gaussian_of_one_cell_reaches_three_cells_far():
    spike = torch.zeros(1, 9, 9)
    spike[0, 4, 4] = 1.0
    smooth = gaussian(spike, 1.0)[0]
    # exp(-k^2 / 2) for k = -3..3 sums to 1 + 2 (0.60653 + 0.13534 + 0.01111) = 2.50596.
    assert float(smooth[4, 4]) == pytest.approx(2.50596**-2, abs=1e-5)
    assert float(smooth[4, 6]) == pytest.approx(0.13534 * 2.50596**-2, abs=1e-5)
    assert float(smooth[4, 8]) == 0.0
    assert gaussian(spike, 0) is spike


def test_the_rank_filter_keeps_a_flat_map_and_lowers_a_lone_peak():
    flat = torch.full((4, 4), 0.3)
    torch.testing.assert_close(rank_gaussian(flat), flat)
    peak = torch.zeros(3, 3)
    peak[1, 1] = 9.0
    # The middle window: 8 zeros and a 9, mean 1, std sqrt(8). Weights exp(-r^2 / 16) for r = -4..4 sum to 6.31175; 9's is exp(-1).
    assert float(rank_gaussian(peak)[1, 1]) == pytest.approx(9 * 0.367879 / 6.31175, abs=1e-5)
    assert rank_gaussian(torch.zeros(3, 3)).tolist() == torch.zeros(3, 3).tolist()


def test_a_map_of_one_row_has_nothing_to_reflect():
    row = torch.tensor([[0.1, 0.9, 0.3]])
    assert rank_gaussian(row) is row
