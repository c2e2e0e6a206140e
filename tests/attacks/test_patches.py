"""Attacks: representations as the attacker keeps them, patches, the patch classifier, the bars."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from toy_outputs import C, Victim, answers, net_of, outputs_of, scenes_of, seeded

from segleak_utils import attacks
from segleak_utils.attacks import (
    AttackRecipe,
    Outputs,
    crop,
    evidence_map,
    patch_scores,
    patches,
    represent,
    score_outputs,
    stream_scores,
    train_attacker,
)
from segleak_utils.attacks.patchnets import REPRESENTATIONS, PatchNet, deep_stem_resnet50


def planted(n=80, seed=0, size=24, leak=True) -> Outputs:
    """Loss maps in which members have the lower loss on class 1, and only there."""
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, C, (n, size // 4, size // 4)).repeat(4, 1).repeat(4, 2)
    loss = rng.exponential(1, (n, 1, size, size))
    member = np.arange(n) % 2 == 0
    if leak:
        loss = np.where(member[:, None, None, None] & (masks[:, None] == 1), 0.3 * loss, loss)
    return Outputs(torch.tensor(loss).half(), torch.tensor(masks).byte(), member, C)


@pytest.mark.parametrize("score", ["margin", "logit1"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_patches_in_batches_score_like_one_at_a_time(representation, score):
    maps, net = outputs_of().maps(representation, slice(4)), net_of(representation).train()
    together = patch_scores(net, maps, 3, 9, seeded(), score=score)
    assert together.shape == (4, 3) and together.dtype == torch.float32 and not net.training
    alone = patch_scores(net, maps, 3, 9, seeded(), score=score, batched=False)
    assert (together - alone).abs().max() < 1e-5
    assert torch.equal(together, patch_scores(net, maps, 3, 9, seeded(), score=score))
    assert not torch.equal(together, patch_scores(net, maps, 3, 9, seeded(1), score=score))


def test_margin_and_logit1_are_what_they_say():
    class Fixed(nn.Module):
        def forward(self, maps):
            return torch.tensor([[2.0, 5.0]]).expand(len(maps), 2)

    maps = torch.rand(2, 1, 8, 8)
    assert (patch_scores(Fixed(), maps, 2, 4, seeded()) == 3).all()
    assert (patch_scores(Fixed(), maps, 2, 4, seeded(), score="logit1") == 5).all()
    with pytest.raises(ValueError, match="score='prob'; expected 'margin' or 'logit1'"):
        patch_scores(Fixed(), maps, 2, 4, seeded(), score="prob")


def test_the_evidence_map_averages_the_patches_that_cover_a_pixel():
    net = net_of("loss map")
    maps = outputs_of().maps("loss map", slice(1))
    found = evidence_map(net, maps, 8, steps=3)
    assert found.shape == (12, 20) and found.isfinite().all()
    # the upper left pixel is covered by one patch alone
    with torch.inference_mode():
        one = net(maps[:, :, :8, :8])[0]
    assert found[0, 0] == pytest.approx((one[1] - one[0]).item(), abs=1e-5)


# ---- training ------------------------------------------------------------------------------------

QUICK = AttackRecipe(patch=20, epochs=10, batch=16, width=8, lr=1e-2)


@pytest.fixture(scope="module")
def leaked():
    return train_attacker(QUICK, [planted(), planted(seed=1)], seed=0, progress=None)


@pytest.mark.slow
def test_a_planted_leak_is_found_in_fresh_outputs(leaked):
    net, history, (scores, member) = leaked
    fresh = planted(seed=2)
    found = score_outputs(net, fresh, "loss map + label", n_patches=4, patch=20, seed=0)
    assert found.shape == (80, 4) and found.dtype == np.float32
    assert roc_auc_score(fresh.member, found.mean(1)) > 0.85
    assert [h["epoch"] for h in history] == list(range(1, 11)) and not net.training
    # kept aside: a share of either kind of either shadow, scored by the epoch that was chosen
    assert len(scores) == len(member) == 24 and member.sum() == 12
    best = max(h["select_auc"] for h in history)
    assert roc_auc_score(member, scores) == pytest.approx(best)


@pytest.mark.slow
def test_where_nothing_leaks_nothing_is_found():
    shadows = [planted(leak=False), planted(seed=1, leak=False)]
    net, *_ = train_attacker(QUICK, shadows, seed=0, progress=None)
    fresh = planted(300, seed=2, leak=False)
    found = score_outputs(net, fresh, "loss map + label", n_patches=2, patch=20, seed=0)
    assert 0.4 < roc_auc_score(fresh.member, found.mean(1)) < 0.6  # 3 standard errors


@pytest.mark.slow
def test_the_same_seed_gives_the_same_attacker():
    recipe = AttackRecipe(patch=16, epochs=2, batch=16, width=4)
    nets = [
        train_attacker(recipe, [planted(40)], seed=seed, progress=None)[0] for seed in (0, 0, 1)
    ]
    a, b, c = (torch.cat([p.flatten() for p in net.parameters()]) for net in nets)
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_an_attacker_of_ones_own_is_trained_in_place_of_the_patch_net():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    recipe = AttackRecipe("loss map", patch=16, epochs=1, batch=16)
    found, history, _ = train_attacker(recipe, [planted(40)], seed=0, net=net, progress=None)
    assert found is net and len(history) == 1


def test_shadows_that_cannot_teach_are_refused():
    with pytest.raises(ValueError, match="no shadow outputs"):
        train_attacker(QUICK, [], seed=0)
    shown = planted(20)
    for wanted in (True, False):
        one_kind = shown.subset(shown.member == wanted)
        with pytest.raises(ValueError, match="both members and non-members"):
            train_attacker(QUICK, [shown, one_kind], seed=0)
    with pytest.raises(ValueError, match="14 shadow images are fewer than one batch of 16"):
        train_attacker(QUICK, [planted(16)], seed=0, progress=None)
    with pytest.raises(ValueError, match="patches of 90x90 from maps of 24x24"):
        train_attacker(AttackRecipe(batch=4), [shown], seed=0, progress=None)
    with pytest.raises(ValueError, match="not kept"):
        recipe = AttackRecipe("concatenation", patch=16, batch=4)
        train_attacker(recipe, [shown], seed=0, progress=None)


def test_every_attacker_sees_the_same_patches():
    class Mean(nn.Module):
        def forward(self, maps):
            return torch.stack([torch.zeros(len(maps)), maps[:, 0].mean((1, 2))], 1)

    nets = {"loss map": Mean(), "loss map + label": Mean()}
    found = stream_scores(answers(Victim(), scenes_of(5)), nets, n_patches=2, patch=9, seed=0)
    np.testing.assert_allclose(found["loss map"], found["loss map + label"], atol=1e-6)


class Brightness(torch.nn.Module):
    """The margin of a patch is its mean."""

    def forward(self, maps):
        mean = maps.mean((1, 2, 3))
        return torch.stack([torch.zeros_like(mean), mean], 1)


def test_evidence_lies_where_the_patches_find_it():
    maps = torch.zeros(1, 1, 12, 20)
    maps[..., 10:] = 1
    found = attacks.evidence_map(Brightness(), maps, 4)
    assert found.shape == (12, 20)
    assert (found[:, :7] == 0).all() and torch.allclose(found[:, 13:], torch.ones(12, 7))
    assert (found.diff(dim=1) >= -1e-6).all()


def test_evidence_needs_one_map_and_a_patch_that_fits():
    for maps, patch in ((torch.zeros(2, 1, 12, 20), 4), (torch.zeros(1, 1, 12, 20), 13)):
        with pytest.raises(ValueError, match=f"patch {patch}"):
            attacks.evidence_map(Brightness(), maps, patch)


def test_batched_scores_of_the_laptops_net_are_those_of_its_forward():
    net = PatchNet("concatenation", C, 8).eval()
    maps = torch.rand(3, 2 * C, 24, 32)
    scores = [
        patch_scores(net, maps, 5, 16, torch.Generator().manual_seed(0), batched=batched)
        for batched in (True, False)
    ]
    assert torch.allclose(*scores, atol=1e-5)


# ---- dense and mixed -----------------------------------------------------------------------------


def judges() -> list[nn.Module]:
    """Both kinds of network, with norms that do something."""
    torch.manual_seed(0)
    nets = [
        PatchNet("loss map + label", C),
        PatchNet("concatenation", C),
        deep_stem_resnet50(2 * C),
    ]
    for net in nets:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return [net.eval() for net in nets]


def smooth_maps(net: nn.Module, n: int, height: int, width: int) -> torch.Tensor:
    """Representations [n,K,height,width] for a network, of regions as wide as things are."""
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(n, C, height // 16 + 1, width // 16 + 1, generator=generator)
    logits = nn.functional.interpolate(logits, (height, width), mode="bilinear")
    mask = logits.roll(2, -1).argmax(1)
    return represent(logits.softmax(1), mask, getattr(net, "representation", "concatenation"))


KINDS = ["loss map + label", "concatenation", "resnet"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", range(3), ids=KINDS)
def test_the_dense_score_of_a_map_as_large_as_a_patch_is_the_patch_score(kind):
    net = judges()[kind]
    maps = smooth_maps(net, 2, 90, 90)
    alone = patch_scores(net, maps, 1, 90, torch.Generator().manual_seed(0))
    dense = attacks.dense_scores(net, maps, 90)
    assert dense.shape == (2, 1, 1)
    torch.testing.assert_close(dense[:, 0], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", range(3), ids=KINDS)
def test_dense_scores_are_near_the_scores_of_the_same_windows(kind):
    net = judges()[kind]
    maps = smooth_maps(net, 2, 128, 160)
    dense = attacks.dense_scores(net, maps, 64)
    assert dense.shape == (2, 9, 13)
    corners = torch.cartesian_prod(torch.arange(9) * 8, torch.arange(13) * 8)
    with torch.inference_mode():
        logits = torch.stack([net(crop(m[None], corners[None], 64)) for m in maps])
    alone = (logits[..., 1] - logits[..., 0]).view_as(dense)
    together = np.corrcoef(dense.flatten(), alone.flatten())[0, 1]
    assert together > 0.9, together
    # near, not the same: a window sees its surroundings, a patch zeros
    assert not torch.allclose(dense, alone, rtol=1e-2, atol=1e-2 * float(alone.std()))


def test_patches_that_do_not_fit_into_the_maps_are_refused_before_anything_is_learned():
    shown = planted()
    size = min(shown.masks.shape[1:]) + 1
    with pytest.raises(
        ValueError, match=rf"{size}x{size} from maps.*AttackRecipe\(patch={size - 1}\)"
    ):
        train_attacker(AttackRecipe(patch=size), [shown], seed=0)


def test_dense_scores_refuse_a_patch_that_does_not_fit():
    with pytest.raises(ValueError, match=r"expected 1\.\.32"):
        attacks.dense_scores(judges()[0], torch.zeros(1, 1 + C, 32, 64), 33)


@pytest.mark.slow
def test_mixed_precision_moves_scores_little_and_makes_no_ties():
    net, maps = judges()[2], torch.rand(6, 2 * C, 64, 64)
    exact, mixed = (
        patch_scores(net, maps, 4, 32, torch.Generator().manual_seed(0), mixed=m)
        for m in (False, True)
    )
    assert np.corrcoef(exact.flatten(), mixed.flatten())[0, 1] > 0.99
    assert len(mixed.unique()) == mixed.numel()


# ---- an interrupted training ---------------------------------------------------------------------


def shadow_of_noise(seed: int) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, C, (24, 32, 40), generator=generator, dtype=torch.uint8)
    loss = torch.rand(24, 1, 32, 40, generator=generator)
    return Outputs(loss.half(), masks, np.arange(24) < 12, C)


@pytest.mark.slow
def test_an_interrupted_training_ends_in_the_weights_of_an_uninterrupted_one(tmp_path, monkeypatch):
    recipe = AttackRecipe(patch=16, epochs=4, batch=6, width=4, select_share=0.2)
    shadows, path = [shadow_of_noise(0), shadow_of_noise(1)], tmp_path / "attacker.pt"
    train = partial(train_attacker, recipe, shadows, seed=3, progress=None)
    whole, history, aside = train()

    one_epoch, seen = patches._one_epoch, []

    def stopped(*arguments):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return one_epoch(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(patches, "_one_epoch", stopped)
        train(checkpoint=path)
    monkeypatch.setattr(
        "segleak_utils.attacks.patches._one_epoch", lambda *a: seen.append(1) or one_epoch(*a)
    )
    net, resumed, kept = train(checkpoint=path)
    assert len(seen) == 3 + 2  # two whole epochs were not done again
    assert resumed == history
    weights = (of.state_dict().values() for of in (net, whole))
    assert all(torch.equal(p, q) for p, q in zip(*weights, strict=True))
    assert all(np.array_equal(p, q) for p, q in zip(kept, aside, strict=True))
    other, _, _ = train_attacker(recipe, shadows, seed=4, progress=None, checkpoint=path)
    assert not torch.equal(other.head.weight, whole.head.weight)  # another seed's is not taken up
    del seen[:]
    train(checkpoint=path)  # the file is that of seed 4 now
    train_attacker(recipe, [shadow_of_noise(0), shadow_of_noise(2)], seed=3, progress=None,
                   checkpoint=path)  # fmt: skip
    assert len(seen) == 8  # nor that of other shadows with as many images
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="cannot be read"):
        train(checkpoint=path)


def test_training_does_not_depend_on_the_number_of_threads():
    recipe = AttackRecipe(patch=32, epochs=1, batch=4, width=8, select_share=0.2)
    before, nets = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            shadow = outputs_of(40, seed=1)
            large = replace(
                shadow,
                loss_maps=shadow.loss_maps.repeat(1, 1, 4, 4),
                masks=shadow.masks.repeat(1, 4, 4),
                posteriors=None,
            )
            nets.append(train_attacker(recipe, [large], seed=0, progress=None)[0])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    weights = (net.state_dict().values() for net in nets)
    assert all(torch.equal(p, q) for p, q in zip(*weights, strict=True))


# ---- numbers that cannot be ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        {"patch": 0},
        {"patch": 9.0},
        {"epochs": 0},
        {"batch": True},
        {"width": 1.5},
        {"lr": 0},
        {"lr": np.nan},
        {"lr": np.inf},
        {"weight_decay": -1},
        {"select_share": 0},
        {"select_share": 1},
        {"select_share": np.nan},
    ],
    ids=str,
)
def test_a_recipe_that_cannot_be_is_refused(bad):
    with pytest.raises(ValueError, match=rf"{next(iter(bad))} is"):
        AttackRecipe(**bad)


@pytest.mark.parametrize("bad", [None, 0.5, -1, True], ids=repr)
def test_a_seed_is_a_whole_number(bad):
    shown, net = outputs_of(3), net_of("loss map")
    for ask in (
        lambda: score_outputs(net, shown, "loss map", n_patches=2, patch=9, seed=bad),
        lambda: stream_scores([], {"loss map": net}, n_patches=2, patch=9, seed=bad),
        lambda: train_attacker(AttackRecipe(), [shown], seed=bad),
    ):
        with pytest.raises(ValueError, match="seed is"):
            ask()


def test_no_answer_gives_no_scores():
    with pytest.raises(ValueError, match="no answer to score"):
        stream_scores([], {"loss map": net_of("loss map")}, n_patches=2, patch=9, seed=0)


def test_an_evidence_map_that_leaves_pixels_out_is_refused():
    """With one step the grid was its first corner; pixels that no patch covers were 0 / 0."""
    net, maps = net_of("loss map"), torch.rand(1, 1, 12, 20)
    assert evidence_map(net, maps, 9, steps=3).isfinite().all()
    for steps in (1, 2):
        with pytest.raises(ValueError, match=f"steps is {steps}; expected at least 3, so that"):
            evidence_map(net, maps, 9, steps=steps)
    for steps in (0, 2.5, True):
        with pytest.raises(ValueError, match="steps is"):
            evidence_map(net, maps, 9, steps=steps)


@pytest.mark.parametrize("bad", [9.0, True, 0, 13])
def test_a_dense_patch_is_whole_and_within(bad):
    with pytest.raises(ValueError, match="patch is"):
        attacks.dense_scores(net_of("loss map"), torch.rand(1, 1, 12, 20), bad)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"scores": np.array([1, np.nan])}, "scores of 'x' holds 1 NaN"),
        ({"scores": np.zeros((2, 1))}, "scores of 'x' must be real numbers"),
        ({"threshold": np.nan}, "threshold is NaN"),
        ({"threshold": True}, "threshold is True"),
        ({"patch_scores": np.zeros((3, 2))}, r"are \[3, 2\] for 2 images"),
        ({"patch_scores": np.zeros((2, 0))}, r"are \[2, 0\] for 2 images"),
        ({"patch_scores": np.full((2, 2), np.inf)}, "patch scores of 'x' holds 4 NaN or inf"),
    ],
)
def test_an_attack_that_found_no_numbers_is_refused(change, found):
    good = {"name": "x", "representation": "y", "scores": np.zeros(2), "threshold": 0.5}
    with pytest.raises(ValueError, match=found):
        attacks.Attack(**good | change)


def test_a_contest_is_about_one_set_of_images():
    attack = attacks.Attack("x", "y", np.zeros(2), np.inf)
    assert attacks.Contest("v", "s", np.array([True, False]), (attack,))["x"] is attack
    for member, found in ((np.ones(3, bool), "2 entries but member"), (np.ones(2), "boolean")):
        with pytest.raises(ValueError, match=found):
            attacks.Contest("v", "s", member, (attack,))
