"""Square windows of maps."""

from __future__ import annotations

import pytest
import torch
from toy_outputs import net_of, seeded

from segleak_utils.attacks import crop, patch_corners, patch_scores

# ---- patches -------------------------------------------------------------------------------------


def test_corners_reach_every_place_alike_and_follow_the_seed():
    corners = patch_corners(200, 50, (12, 20), 9, seeded())
    assert corners.shape == (200, 50, 2) and corners.dtype == torch.int64
    for axis, places in ((0, 4), (1, 12)):
        counts = corners[..., axis].flatten().bincount()
        assert len(counts) == places  # 0 .. size - patch, both ends included
        assert (counts - 10_000 / places).abs().max() < 5 * (10_000 / places) ** 0.5
    assert torch.equal(corners, patch_corners(200, 50, (12, 20), 9, seeded()))
    assert not torch.equal(corners, patch_corners(200, 50, (12, 20), 9, seeded(1)))
    assert not patch_corners(3, 2, (12, 20), 12, seeded())[..., 0].any()


@pytest.mark.parametrize(("n", "patch"), [(0, 4), (-1, 4), (2, 13), (2, 0)])
def test_patches_that_do_not_exist_are_refused(n, patch):
    with pytest.raises(ValueError, match=f"{n} patches of {patch}x{patch} from maps of 12x20"):
        patch_corners(3, n, (12, 20), patch, seeded())
    with pytest.raises(ValueError, match=f"{n} patches of {patch}x{patch}"):
        patch_scores(net_of("loss map"), torch.rand(3, 1, 12, 20), n, patch, seeded())


def test_a_crop_is_a_slice():
    maps, corners = torch.rand(3, 5, 12, 20), patch_corners(3, 4, (12, 20), 7, seeded())
    found = crop(maps, corners, 7)
    assert found.shape == (12, 5, 7, 7)
    for k, (row, column) in enumerate(corners.reshape(-1, 2).tolist()):
        assert torch.equal(found[k], maps[k // 4, :, row : row + 7, column : column + 7])


@pytest.mark.parametrize("bad", [{"n_patches": 2.0}, {"n_patches": True}, {"patch": 4.0}], ids=str)
def test_patches_are_whole(bad):
    asked = {"n_images": 3, "n_patches": 2, "size": (12, 20), "patch": 4} | bad
    with pytest.raises(ValueError, match=rf"{next(iter(bad))} is .*; expected a whole number"):
        patch_corners(**asked, generator=seeded())


@pytest.mark.parametrize("corner", [[-1, 0], [0, -1], [2, 0], [0, 3]])
def test_a_patch_that_leaves_the_map_is_refused(corner):
    maps = torch.arange(30.0).view(1, 1, 5, 6)
    assert crop(maps, torch.tensor([[[1, 2]]]), 4)[0, 0, 0].tolist() == [8, 9, 10, 11]
    with pytest.raises(ValueError, match=r"patch of 4 pixels leaves .* corners from 0 to \[1, 2\]"):
        crop(maps, torch.tensor([[corner]]), 4)


def test_corners_are_integers_of_each_map():
    maps = torch.zeros(2, 1, 5, 6)
    for corners in (torch.zeros(2, 1, 2), torch.zeros(1, 1, 2).long(), torch.zeros(2, 2).long()):
        with pytest.raises(ValueError, match="maps and corners are"):
            crop(maps, corners, 4)
