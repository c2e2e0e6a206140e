"""Attacks: representations as the attacker keeps them, patches, the patch classifier, the bars."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from segleak_utils import attacks
from segleak_utils.attacks import (
    AttackRecipe,
    LinearAttack,
    Outputs,
    blind_features,
    class_features,
    crop,
    evidence_map,
    global_loss_scores,
    logistic_attack,
    outputs,
    patch_corners,
    patch_scores,
    represent,
    score_outputs,
    stream_scores,
    train_attacker,
)
from segleak_utils.data import Scenes
from segleak_utils.patchnets import (
    REPRESENTATIONS,
    PatchNet,
    channels,
    deep_stem_resnet50,
    load_public_attacker,
)
from segleak_utils.representations import argmax_posterior
from segleak_utils.victims import read_weights, save_weights

VOID, C = 255, 4
NAMES = ("road", "car", "sky", "pole")


def posteriors_and_masks(n=6, seed=0, height=12, width=20):
    rng = torch.Generator().manual_seed(seed)
    posterior = (2 * torch.randn(n, C, height, width, generator=rng)).softmax(1)
    masks = torch.randint(0, C, (n, height, width), generator=rng)
    masks[:, 0] = VOID
    return posterior, masks


def outputs_of(n=6, seed=0, keep=True) -> Outputs:
    """What `attacks.outputs` keeps: half precision, bytes; the first half are members."""
    posterior, masks = posteriors_and_masks(n, seed)
    loss = represent(posterior, masks, "loss map").half()
    kept = posterior.half() if keep else None
    return Outputs(loss, masks.byte(), np.arange(n) < n // 2, C, kept)


def planted(n=80, seed=0, size=24, leak=True) -> Outputs:
    """Loss maps in which members have the lower loss on class 1, and only there."""
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, C, (n, size // 4, size // 4)).repeat(4, 1).repeat(4, 2)
    loss = rng.exponential(1, (n, 1, size, size))
    member = np.arange(n) % 2 == 0
    if leak:
        loss = np.where(member[:, None, None, None] & (masks[:, None] == 1), 0.3 * loss, loss)
    return Outputs(torch.tensor(loss).half(), torch.tensor(masks).byte(), member, C)


def seeded(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net_of(representation, width=8, seed=0) -> PatchNet:
    torch.manual_seed(seed)
    return PatchNet(representation, C, width).eval()


# ---- representations -----------------------------------------------------------------------------


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_kept_outputs_give_the_representation_of_the_posteriors(representation):
    posterior, masks = posteriors_and_masks()
    expected = represent(posterior, masks, representation)
    assert expected.shape == (6, channels(representation, C), 12, 20)
    shown = outputs_of()
    found = shown.maps(representation, slice(0, 6))
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-3, rtol=1e-3)  # half precision
    some = torch.tensor([4, 1])
    assert torch.equal(shown.maps(representation, some), found[some])


@pytest.mark.parametrize("indices", [np.array([5, 0, 2]), np.arange(6) % 2 == 1])
def test_a_subset_keeps_what_belongs_together(indices):
    shown = outputs_of()
    part, chosen = shown.subset(indices), torch.from_numpy(np.arange(6)[indices])
    assert len(part) == 3 and part.n_classes == C
    assert np.array_equal(part.member, shown.member[indices])
    for representation in REPRESENTATIONS:
        assert torch.equal(
            part.maps(representation, slice(None)), shown.maps(representation, chosen)
        )
    assert outputs_of(keep=False).subset(indices).posteriors is None


def test_unknown_representation_and_posteriors_that_were_not_kept_are_named():
    posterior, masks = posteriors_and_masks()
    for ask in (
        lambda: represent(posterior, masks, "lossmap"),
        lambda: outputs_of().maps("lossmap", slice(2)),
        lambda: channels("lossmap", C),
        lambda: PatchNet("lossmap", C),
    ):
        with pytest.raises(ValueError, match=r"unknown representation 'lossmap'; known: .*loss ma"):
            ask()
    with pytest.raises(ValueError, match="not kept; collect them with keep_posteriors=True"):
        outputs_of(keep=False).maps("concatenation", slice(2))


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


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (31, 17), (90, 90)])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_the_patch_net_takes_patches_of_any_size(representation, size):
    net = net_of(representation)
    assert net(torch.rand(2, net.channels, *size)).shape == (2, 2)


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


def test_where_nothing_leaks_nothing_is_found():
    shadows = [planted(leak=False), planted(seed=1, leak=False)]
    net, *_ = train_attacker(QUICK, shadows, seed=0, progress=None)
    fresh = planted(300, seed=2, leak=False)
    found = score_outputs(net, fresh, "loss map + label", n_patches=2, patch=20, seed=0)
    assert 0.4 < roc_auc_score(fresh.member, found.mean(1)) < 0.6  # 3 standard errors


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


# ---- the public layout ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states():
    torch.manual_seed(0)
    return {k: deep_stem_resnet50(k).state_dict() for k in (1, 3, 38)}


def test_the_deep_stem_has_the_public_key_layout(states):
    state = states[38]
    for key, shape in (
        ("conv1.0.weight", (64, 38, 3, 3)),
        ("conv1.1.running_var", (64,)),
        ("conv1.3.weight", (64, 64, 3, 3)),
        ("conv1.6.weight", (128, 64, 3, 3)),
        ("bn1.weight", (128,)),
        ("layer1.0.downsample.0.weight", (256, 128, 1, 1)),
        ("layer4.2.conv3.weight", (2048, 512, 1, 1)),
        ("fc.weight", (2, 2048)),
    ):
        assert tuple(state[key].shape) == shape


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("k", [1, 38])
def test_a_public_checkpoint_is_loaded(states, tmp_path, k, prefix):
    path = tmp_path / "attacker.pth.tar"
    state = {prefix + key: value for key, value in states[k].items()}
    torch.save({"epoch": 9, "state_dict": state}, path)
    net = load_public_attacker(path)
    assert not net.training
    assert all(torch.equal(value, states[k][key]) for key, value in net.state_dict().items())
    assert patch_scores(net, torch.rand(1, k, 40, 40), 1, 32, seeded()).isfinite().all()


def test_other_checkpoints_are_refused_by_name(states, tmp_path):
    path = tmp_path / "attacker.pth.tar"
    with pytest.raises(FileNotFoundError, match=r"no attacker at .*attacker\.pth\.tar"):
        load_public_attacker(path)
    foreign = {**states[1], "aux.weight": torch.zeros(1)}
    without = {k: v for k, v in states[1].items() if k != "layer1.0.conv1.weight"}
    for saved, message in (
        ({"state_dict": states[3]}, r"first layer of shape \(64, 3, 3, 3\); expected .* 1 or 38"),
        ({"state_dict": {"conv1.weight": torch.zeros(1)}}, "no deep stem; expected conv1.0.weight"),
        ({"state_dict": foreign}, r"is not a deep-stem ResNet-50: .*aux\.weight"),
        ({"state_dict": without}, r"is not a deep-stem ResNet-50: .*layer1\.0\.conv1\.weight"),
        (states[1], "holds no 'state_dict'"),
        ([1, 2], "holds no 'state_dict'"),
    ):
        torch.save(saved, path)
        with pytest.raises(ValueError, match=rf"(?s)attacker\.pth\.tar .*{message}"):
            load_public_attacker(path)
    torch.save({"state_dict": states[1]}, path)
    content = path.read_bytes()
    for torn in (b"", b"garbage", content[: len(content) // 2]):
        path.write_bytes(torn)
        with pytest.raises(ValueError, match=r"attacker\.pth\.tar is not a checkpoint torch can"):
            load_public_attacker(path)


# ---- the bars to be passed -----------------------------------------------------------------------


def test_global_loss_scores_are_minus_the_mean_over_labelled_pixels():
    shown = outputs_of(70)  # more than one batch
    loss, masks = shown.loss_maps[:, 0].double().numpy(), shown.masks.numpy()
    expected = [-one[mask != VOID].mean() for one, mask in zip(loss, masks, strict=True)]
    np.testing.assert_allclose(global_loss_scores(shown), expected, rtol=1e-6)


def test_class_features_are_mean_losses_their_sums_and_shares():
    shown = outputs_of(70)
    shown.masks[0][shown.masks[0] == 2] = 1  # class 2 is absent from image 0
    found = class_features(shown)
    assert found.shape == (70, 3 * C) and found.dtype == np.float64
    loss, masks = shown.loss_maps[:, 0].double().numpy(), shown.masks.numpy()
    for i in (0, 69):
        for c in range(C):
            at = masks[i] == c
            assert found[i, c] == pytest.approx(loss[i][at].mean() if at.any() else 0, rel=1e-5)
            share = at.sum() / (masks[i] != VOID).sum()
            assert found[i, 2 * C + c] == pytest.approx(share, rel=1e-5)
            assert found[i, C + c] == pytest.approx(found[i, c] * share, rel=1e-5)
    assert found[0, 2] == found[0, C + 2] == found[0, 2 * C + 2] == 0


def scenes_of(n=20, seed=0) -> Scenes:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 3, 12, 20), dtype=np.uint8)
    masks = rng.integers(0, C, (n, 12, 20), dtype=np.uint8)
    masks[:, 0] = VOID
    return Scenes.from_arrays(images, masks, [f"s{seed}-{i}" for i in range(n)], NAMES)


def test_blind_features_are_shares_colours_and_the_gradient():
    scenes = scenes_of(3)
    found = blind_features(scenes)
    assert found.shape == (3, C + 7) and found.dtype == np.float64
    for row, (image, mask) in zip(found, scenes, strict=True):
        image, mask = image.double().numpy(), mask.numpy()
        shares = [(mask == c).sum() / (mask != VOID).sum() for c in range(C)]
        gradient = np.abs(np.diff(image, axis=-1)).mean()
        colours = [*image.mean((1, 2)), *image.std((1, 2), ddof=1), gradient]
        np.testing.assert_allclose(row, [*shares, *colours], rtol=1e-4)


def test_logistic_regression_finds_a_feature_and_refuses_nan():
    rng = np.random.default_rng(0)
    member = np.arange(200) % 2 == 0
    features = rng.normal(0, 1, (200, 5))
    features[:, 3] += 2 * member
    model = logistic_attack(features, member)
    assert roc_auc_score(member, model.decision_function(features)) > 0.85
    for bad in (np.nan, np.inf):
        features[7, 2] = bad
        with pytest.raises(ValueError, match="features hold NaN or infinite"):
            logistic_attack(features, member)


def fitted_attack(n_features=5, seed=0):
    rng = np.random.default_rng(seed)
    member = np.arange(200) % 2 == 0
    features = rng.normal(3, 10, (200, n_features))
    features[:, 3] += 9 * member
    features[:, 1] = 7  # a class that is never there: no deviation to divide by
    return logistic_attack(features, member), features


def test_a_linear_attack_scores_as_the_regression_it_was_made_of():
    fitted, features = fitted_attack()
    found = LinearAttack.of(fitted).scores(features)
    assert found.shape == (200,) and found.dtype == np.float64
    np.testing.assert_allclose(found, fitted.decision_function(features), rtol=1e-9, atol=1e-12)
    narrow = LinearAttack.of(fitted).scores(features.astype(np.float32))
    np.testing.assert_allclose(narrow, found, atol=1e-5)
    assert len(LinearAttack.of(fitted).scores(features[:0])) == 0


def test_a_linear_attack_worked_by_hand():
    attack = LinearAttack(2)
    attack.mean += torch.tensor([1.0, 2.0])
    attack.scale += torch.tensor([2.0, 4.0])
    attack.weight += torch.tensor([3.0, -1.0])
    attack.bias += 0.5
    features = np.array([[1, 2], [3, 2], [1, 6]])
    assert attack.scores(features).tolist() == [0.5, 3.5, -0.5]


def test_a_linear_attack_survives_being_stored(tmp_path):
    fitted, features = fitted_attack()
    attack, path = LinearAttack.of(fitted), tmp_path / "attack.safetensors"
    save_weights(attack, path, {"n_features": 5}, torch.float64)
    again = LinearAttack(5)
    state, meta = read_weights(path)
    again.load_state_dict(state)
    assert meta == {"n_features": 5} and set(state) == {"mean", "scale", "weight", "bias"}
    # weights are read as float32
    np.testing.assert_allclose(again.scores(features), attack.scores(features), atol=1e-5)
    with pytest.raises(RuntimeError, match="size mismatch"):
        LinearAttack(4).load_state_dict(state)


def test_features_of_another_number_are_refused_by_a_linear_attack():
    fitted, features = fitted_attack()
    with pytest.raises((RuntimeError, ValueError)):
        LinearAttack.of(fitted).scores(features[:, :4])


# ---- victims asked -------------------------------------------------------------------------------


class Victim(nn.Module):
    """Logits from the pixels; `spoil` changes them."""

    def __init__(self, spoil=lambda logits: logits):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.spoil = nn.Conv2d(3, C, 1), spoil
        self.layer.weight.data *= 8

    def forward(self, images):
        return self.spoil(self.layer(images))


def test_a_streams_scores_are_those_of_the_kept_outputs():
    members, nonmembers = scenes_of(16), scenes_of(7, 1)
    shown = outputs(Victim(), members, nonmembers, keep_posteriors=True)
    assert shown.member.tolist() == [True] * 16 + [False] * 7 and shown.loss_maps.shape[0] == 23
    nets = {r: net_of(r) for r in REPRESENTATIONS}
    asked = {"n_patches": 3, "patch": 9, "seed": 4}
    found = stream_scores(Victim(), (members, nonmembers), nets, **asked)
    for representation, net in nets.items():
        assert found[representation].shape == (23, 3)
        kept = score_outputs(net, shown, representation, **asked)
        # not exact: outputs are kept in half precision
        np.testing.assert_allclose(found[representation], kept, atol=5e-3)
    again = stream_scores(Victim(), (members, nonmembers), nets, **asked)
    assert all(np.array_equal(found[r], again[r]) for r in nets)


def test_outputs_pass_through_a_release():
    members, nonmembers = scenes_of(18), scenes_of(3, 1)
    plain = outputs(Victim(), members, nonmembers, keep_posteriors=True)
    seen = []
    shown = outputs(
        Victim(),
        members,
        nonmembers,
        keep_posteriors=True,
        release=lambda posterior: seen.append(posterior) or argmax_posterior(posterior),
    )
    assert torch.equal(torch.cat(seen).half(), plain.posteriors)  # each image, once, in order
    assert torch.equal(shown.posteriors, argmax_posterior(torch.cat(seen)).half())
    expected = represent(shown.posteriors.float(), shown.masks.long(), "loss map").half()
    assert torch.equal(shown.loss_maps, expected)
    assert not torch.equal(shown.loss_maps, plain.loss_maps)
    assert torch.equal(shown.masks, plain.masks) and np.array_equal(shown.member, plain.member)
    same = outputs(Victim(), members, nonmembers, release=lambda posterior: posterior)
    assert torch.equal(same.loss_maps, plain.loss_maps) and same.posteriors is None


@pytest.mark.parametrize(
    ("release", "message"),
    [
        (lambda p: 2 * p, "sum to one"),
        (lambda p: p - 0.5, "negative probability"),
        (lambda p: p * np.nan, "NaN"),
        (lambda p: p.argmax(1), "must be a floating-point"),
    ],
)
def test_a_release_that_gives_no_posterior_is_refused(release, message):
    with pytest.raises(ValueError, match=message):
        outputs(Victim(), scenes_of(3), scenes_of(3, 1), release=release)


def test_every_attacker_sees_the_same_patches():
    class Mean(nn.Module):
        def forward(self, maps):
            return torch.stack([torch.zeros(len(maps)), maps[:, 0].mean((1, 2))], 1)

    nets = {"loss map": Mean(), "loss map + label": Mean()}
    found = stream_scores(Victim(), (scenes_of(5),), nets, n_patches=2, patch=9, seed=0)
    np.testing.assert_allclose(found["loss map"], found["loss map + label"], atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_victim_that_puts_out_nan_is_refused(bad):
    victim = Victim(lambda logits: torch.where(logits == logits.max(), bad, logits))
    nets = {"loss map": net_of("loss map")}
    with pytest.raises(ValueError, match="NaN or infinite"):
        stream_scores(victim, (scenes_of(3),), nets, n_patches=1, patch=9, seed=0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        outputs(victim, scenes_of(3), scenes_of(3, 1))


def test_posteriors_that_are_no_distribution_are_refused(monkeypatch):
    posterior, masks = posteriors_and_masks(3)
    nets = {"loss map": net_of("loss map")}
    for spoilt, message in (
        (2 * posterior, "sum to one"),
        (posterior - 0.5, "negative probability"),
        (posterior * np.nan, "NaN"),
        (posterior[:, :3] / posterior[:, :3].sum(1, keepdim=True), "label 3, expected 0..2"),
    ):
        batch = [(spoilt, masks)]
        monkeypatch.setattr(attacks, "posterior_batches", lambda *_, b=batch, **__: iter(b))
        with pytest.raises(ValueError, match=message):
            stream_scores(Victim(), (scenes_of(3),), nets, n_patches=1, patch=9, seed=0)
        with pytest.raises(ValueError, match=message):
            outputs(Victim(), scenes_of(3), scenes_of(3, 1))


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


@pytest.mark.parametrize("kind", range(3), ids=KINDS)
def test_the_dense_score_of_a_map_as_large_as_a_patch_is_the_patch_score(kind):
    net = judges()[kind]
    maps = smooth_maps(net, 2, 90, 90)
    alone = patch_scores(net, maps, 1, 90, torch.Generator().manual_seed(0))
    dense = attacks.dense_scores(net, maps, 90)
    assert dense.shape == (2, 1, 1)
    torch.testing.assert_close(dense[:, 0], alone, rtol=1e-4, atol=1e-5)


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


def test_dense_scores_refuse_a_patch_that_does_not_fit():
    with pytest.raises(ValueError, match=r"expected 1\.\.32"):
        attacks.dense_scores(judges()[0], torch.zeros(1, 1 + C, 32, 64), 33)


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


def test_an_interrupted_training_ends_in_the_weights_of_an_uninterrupted_one(tmp_path, monkeypatch):
    recipe = AttackRecipe(patch=16, epochs=4, batch=6, width=4, select_share=0.2)
    shadows, path = [shadow_of_noise(0), shadow_of_noise(1)], tmp_path / "attacker.pt"
    train = partial(train_attacker, recipe, shadows, seed=3, progress=None)
    whole, history, aside = train()

    one_epoch, seen = attacks._one_epoch, []

    def stopped(*arguments):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return one_epoch(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(attacks, "_one_epoch", stopped)
        train(checkpoint=path)
    monkeypatch.setattr(attacks, "_one_epoch", lambda *a: seen.append(1) or one_epoch(*a))
    net, resumed, kept = train(checkpoint=path)
    assert len(seen) == 3 + 2  # two whole epochs were not done again
    assert resumed == history
    weights = (of.state_dict().values() for of in (net, whole))
    assert all(torch.equal(p, q) for p, q in zip(*weights, strict=True))
    assert all(np.array_equal(p, q) for p, q in zip(kept, aside, strict=True))
    other, _, _ = train_attacker(recipe, shadows, seed=4, progress=None, checkpoint=path)
    assert not torch.equal(other.head.weight, whole.head.weight)  # another seed's is not taken up
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="cannot be read"):
        train(checkpoint=path)
