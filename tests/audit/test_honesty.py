"""Blind baseline, twins, risk: what holds where nothing leaks, and what is found where it does."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import torch
from PIL import Image

from segleak_utils.audit.blind import blind
from segleak_utils.audit.looks import perceptual_hash
from segleak_utils.audit.risk import flagged, images, owners, p_values
from segleak_utils.audit.twins import MOST, NEAR, twins


def look_alike(seed: int, n: int = 100, wide: int = 20) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (2 * n, wide)) + rng.gamma(1, 1, (2 * n, wide)), np.arange(2 * n) < n


def names(features: np.ndarray) -> list[str]:
    return [f"look {k}" for k in range(features.shape[1])]


# ---- the blind baseline --------------------------------------------------------------------------


@pytest.mark.parametrize("grouped", [False, True])
def test_the_interval_of_the_blind_baseline_holds_a_half_where_nothing_differs(grouped):
    """Of 400 audits; three standard errors of .95 are .033."""
    held, differs = 0, 0
    for seed in range(400):
        features, member = look_alike(seed)
        groups = None
        if grouped:  # an owner's images are alike, and all members or none
            codes = np.arange(200) // 5
            features += np.random.default_rng(seed).normal(0, 2, (40, 20))[codes]
            groups = [f"g{code}" for code in codes]
        found = blind(features, names(features), member, groups, seed=seed)
        held += found.auc.low <= 0.5 <= found.auc.high
        differs += found.differs
        assert found.differs == (found.auc.low > 0.5)
    assert 0.917 <= held / 400 <= 0.983 and differs / 400 < 0.05


@pytest.mark.parametrize(
    "change", [lambda x: x + 1.2, lambda x: 2.5 * x], ids=["another mean", "another spread"]
)
def test_a_difference_of_the_lists_is_found_and_named(change):
    features, member = look_alike(0)
    features[:, 3] -= features[:, 3].mean()
    features[member, 3] = change(features[member, 3])
    found = blind(features, names(features), member)
    assert found.differs and found.p_value < 0.02 and found.auc.low > 0.5
    assert found.most_telling == "look 3" or change(1) == 2.5


def test_images_of_one_owner_are_not_learned_by_heart():
    """Each owner has a look of its own: by image the owner would be found again."""
    codes = np.arange(200) // 10
    rng = np.random.default_rng(0)
    features = rng.normal(0, 3, (20, 20))[codes] + rng.normal(0, 0.1, (200, 20))
    member = codes < 10
    assert blind(features, names(features), member).differs
    assert not blind(features, names(features), member, [f"{c:02}" for c in codes]).differs


def test_of_few_owners_little_can_be_told_and_that_is_said():
    features, member = look_alike(0)
    features[member] += 3
    few = [f"{code}" for code in np.arange(200) // 50]
    found = blind(features, names(features), member, few)
    assert not found.differs and found.p_value > 0.1  # there are six ways to label four owners
    many = [f"{code:02}" for code in np.arange(200) // 5]
    assert blind(features, names(features), member, many).differs


def test_two_thousand_images_are_relabelled_in_seconds():
    features, member = look_alike(0, 1000, 40)
    begun = time.process_time()
    blind(features, names(features), member, relabellings=200)
    assert time.process_time() - begun < 20


def test_lists_that_cannot_be_compared_are_refused():
    features, member = look_alike(0, 9)
    with pytest.raises(ValueError, match="9 members and 9 non-members"):
        blind(features, names(features), member)
    features, member = look_alike(0)
    with pytest.raises(ValueError, match="3 names for 20 features"):
        blind(features, ["a", "b", "c"], member)
    with pytest.raises(ValueError, match="NaN"):
        blind(np.where(features > 3, np.nan, features), names(features), member)
    constant = np.ones_like(features)
    assert blind(constant, names(features), member).auc.value == 0.5


# ---- twins ---------------------------------------------------------------------------------------


def pictures(n: int, seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (n, 9, 12, 3), dtype=np.uint8)
    return [Image.fromarray(x).resize((96, 72), Image.Resampling.BICUBIC) for x in small]


def hashed(pictures: list[Image.Image]) -> tuple[list[str], np.ndarray]:
    arrays = [np.asarray(p.convert("RGB")) for p in pictures]
    found = [perceptual_hash(torch.from_numpy(a.transpose(2, 0, 1).copy())) for a in arrays]
    return [a.tobytes().hex() for a in arrays], np.array(found, np.uint64)


def stored_anew(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


@pytest.mark.parametrize(
    "again",
    [
        lambda p: stored_anew(p, 75), lambda p: stored_anew(p, 30), lambda p: p.resize((48, 36)),
        lambda p: p.resize((192, 144)),
    ],
    ids=["JPEG 75", "JPEG 30", "half", "double"],
)  # fmt: skip
def test_a_picture_stored_anew_is_nearly_the_same_and_others_are_not(again):
    own = pictures(40)
    pixels, hashes = hashed([*own, *map(again, own[:10])])
    member = np.arange(50) < 40
    found = twins([f"p{i}" for i in range(50)], member, pixels, hashes)
    pairs = {(of.first, of.second) for of in found}
    assert pairs == {(f"p{i}", f"p{40 + i}") for i in range(10)}
    assert all(of.between_lists and of.distance <= NEAR for of in found)


def test_the_same_pixels_come_first_and_are_called_so():
    own = pictures(20)
    pixels, hashes = hashed([*own, own[3], stored_anew(own[5], 60), own[0]])
    member = np.arange(23) < 21
    found = twins([f"p{i}" for i in range(23)], member, pixels, hashes)
    assert [(of.first, of.second, of.kind, of.between_lists) for of in found] == [
        ("p0", "p22", "same pixels", True),
        ("p5", "p21", "nearly the same", True),
        ("p3", "p20", "same pixels", False),
    ]


def test_ten_thousand_pictures_are_compared_in_seconds_and_the_list_is_bounded():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 10_000).astype(np.uint64)
    begun = time.process_time()
    assert twins([*map(str, range(10_000))], np.zeros(10_000, bool), hashes.tolist(), hashes) == ()
    assert time.process_time() - begun < 20
    same = twins([*map(str, range(60))], np.arange(60) < 30, ["x"] * 60, np.zeros(60, np.uint64))
    assert len(same) == MOST and all(of.between_lists for of in same)


def test_neighbours_of_a_video_are_found_and_other_drives_are_not(camvid_root):
    paths = sorted((camvid_root / "train").glob("*.png"))[::3]
    pixels, hashes = hashed([Image.open(path) for path in paths])
    drives = [path.name.split("_")[0] for path in paths]
    found = twins(drives, np.zeros(len(paths), bool), pixels, hashes)
    assert found and all(of.first == of.second for of in found)


# ---- risk ----------------------------------------------------------------------------------------


def test_the_false_discovery_rate_holds():
    """A tenth of 200 members is found easily; of those flagged, at most a tenth may be others."""
    rng, wrong = np.random.default_rng(0), []
    for _ in range(300):
        found_easily = np.arange(200) < 20
        scores = rng.normal(0, 1, 200) + 5 * found_easily
        found = flagged(p_values(scores, rng.normal(0, 1, 1000)), 0.1)
        wrong.append((found & ~found_easily).sum() / max(found.sum(), 1))
        assert found[found_easily].mean() > 0.5
    assert np.mean(wrong) < 0.11


def test_where_nothing_leaks_hardly_anybody_is_flagged():
    rng = np.random.default_rng(1)
    audits = [flagged(p_values(rng.normal(0, 1, 100), rng.normal(0, 1, 400)), 0.1).any()
              for _ in range(400)]  # fmt: skip
    assert np.mean(audits) < 0.14


def some_images(groups=None):
    scores = np.array([5.0, 1, 0, 0, 1, 2, 3, 4])
    return images(
        list("abcdefgh"), np.arange(8) < 3, groups, scores, scores / 2, scores[3:], rate=0.5
    )


def test_each_image_has_its_rank_and_its_share_of_others():
    found = some_images()
    assert [of.rank for of in found] == [1, 5, 7, 7, 5, 4, 3, 2]
    assert [of.p_value for of in found] == [1 / 6, 5 / 6, 1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]
    assert [of.flagged for of in found] == [True, *[False] * 7]
    assert [of.loss for of in found][:2] == [2.5, 0.5] and found[0].p_shadows == 1 / 6
    assert owners(found) == ()


def test_owners_are_compared_with_the_others_images():
    found = owners(some_images(["x", "x", "y", "y", "z", "z", "z", "x"]))
    by_name = {of.group: of for of in found}
    assert (by_name["x"].n_members, by_name["x"].n_nonmembers, by_name["x"].n_flagged) == (2, 1, 1)
    # of the others' 0, 1, 2, 3: the 5 is above all, the 1 above one and a half
    assert by_name["x"].exposure == pytest.approx((4 + 1.5) / 2 / 4)
    assert by_name["x"].p_value == pytest.approx(2 * 1 / 5)
    assert by_name["z"].exposure is None and by_name["z"].p_value is None
