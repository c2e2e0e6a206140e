"""Victims: recipes, logits of any model, scores of a segmentation, training, weights on disk."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from segleak_utils import victims
from segleak_utils.data import Scenes
from segleak_utils.dpsgd import check_private
from segleak_utils.victims import (
    Recipe,
    augmentation,
    build_victim,
    confusion_matrix,
    iou_of,
    load_victim,
    logits_of,
    mean_iou,
    posterior_batches,
    posteriors,
    read_weights,
    replace_file,
    save_weights,
    sha256,
    train_victim,
)

VOID = 255
NAMES = ("road", "car", "sky")
SMALL = Recipe(
    encoder="tu-mobilenetv3_small_050", decoder_channels=8, n_classes=3, epochs=3, batch=4
)
STILL = {"flip": False, "crop_area": 1, "colour": 0}


def scenes_of(n: int = 8, seed: int = 0, height: int = 32, width: int = 64) -> Scenes:
    """Images whose brightness encodes the mask: label c is 40 + 80 c, void is 0."""
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 3, (n, 1 + height // 8, 1 + width // 8), dtype=np.uint8)
    masks = masks.repeat(8, 1).repeat(8, 2)[:, 4 : 4 + height, 4 : 4 + width].copy()
    masks[:, :2] = VOID
    images = np.where(masks == VOID, 0, 40 + 80 * masks.astype(int)).astype(np.uint8)
    images = np.repeat(images[:, None], 3, 1)
    return Scenes.from_arrays(images, masks, [f"s{seed}-{i}" for i in range(n)], NAMES)


class Oracle(nn.Module):
    """Reads the label off the brightness, and is wrong where `wrong` says so."""

    def __init__(self, wrong=None, n_classes: int = 3) -> None:
        super().__init__()
        self.wrong, self.n_classes = wrong, n_classes

    def forward(self, images):
        label = ((images[:, 0] * 255 - 40) / 80).round().clamp(0, 2).long()
        if self.wrong is not None:
            label = torch.where(self.wrong(images), (label + 1) % 3, label)
        hot = nn.functional.one_hot(label, self.n_classes).permute(0, 3, 1, 2)
        return 20.0 * hot


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# ---- recipe and network --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [("epoch", 3), ("epochs", 0), ("batch", 1), ("lr", 0), ("lr", 2), ("weight_decay", -1),
     ("crop_area", 0), ("crop_area", 1.1), ("colour", 1), ("colour", -0.1), ("n_classes", 1),
     ("n_classes", 256), ("decoder_channels", 4), ("check_every", 0), ("patience", 0)],
)  # fmt: skip
def test_a_recipe_refuses_what_it_does_not_know_and_what_is_out_of_bounds(field, value):
    with pytest.raises(ValidationError, match=rf"{field}\n"):
        Recipe(**{field: value})


def test_a_recipe_is_frozen_and_survives_json():
    with pytest.raises(ValidationError, match="frozen"):
        SMALL.epochs = 9
    assert Recipe(**json.loads(SMALL.model_dump_json())) == SMALL


def test_unknown_architecture_and_encoder_are_named():
    with pytest.raises(ValueError, match=r"arch='upperet' with encoder='tu-edge.*names it knows"):
        build_victim(Recipe(arch="upperet"))
    for encoder in ("resnet19", "tu-edgenext_xxx"):
        with pytest.raises(ValueError, match=f"encoder='{encoder}'.*names it knows"):
            build_victim(Recipe(encoder=encoder))


def test_the_seed_makes_the_network_and_nothing_else_is_touched():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a = build_victim(SMALL, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert same_weights(a, build_victim(SMALL, seed=1))
    assert not same_weights(a, build_victim(SMALL, seed=2))


def test_the_shipped_default_is_light():
    assert sum(p.numel() for p in build_victim(Recipe()).parameters()) < 2e6


@pytest.mark.parametrize("arch", ["upernet", "pspnet", "deeplabv3plus", "fpn", "unet", "segformer"])
def test_every_architecture_gives_posteriors_on_the_images_grid(arch):
    recipe = Recipe(arch=arch, encoder="resnet18", decoder_channels=16, n_classes=3)
    found = posteriors(build_victim(recipe).eval(), torch.rand(1, 3, 64, 96))
    assert found.shape == (1, 3, 64, 96) and found.dtype == torch.float32
    assert (found.sum(1) - 1).abs().max() < 1e-5 and found.min() >= 0


# ---- GroupNorm and dropout -----------------------------------------------------------------------

GROUP = Recipe(norm="group", decoder_channels=16, n_classes=3)


@pytest.mark.parametrize(
    "change", [{}, {"encoder": "resnet18"}, {"arch": "unet"}, {"arch": "segformer"}], ids=str
)
def test_with_groupnorm_no_image_has_a_say_in_anothers_output(change):
    model = build_victim(Recipe(**GROUP.model_dump() | change)).train()
    for module in model.modules():
        assert not isinstance(module, nn.modules.batchnorm._BatchNorm)
        assert not getattr(module, "inplace", False)
    check_private(model)
    images = torch.rand(3, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    others = images.clone()
    others[1:] = 1 - others[1:] ** 2
    with torch.no_grad():
        together, among_others, alone = model(images), model(others), model(images[:1])
        assert together.isfinite().all() and together.std() > 0
        torch.testing.assert_close(together[0], among_others[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together[0], alone[0], atol=1e-4, rtol=1e-4)
        assert (together[1] - among_others[1]).abs().max() > 1e-3
        # nothing is remembered of a batch, so training and eval mode agree
        torch.testing.assert_close(model.eval()(images), together, atol=1e-4, rtol=1e-4)


def test_with_batchnorm_the_others_do_have_a_say():
    model = build_victim(Recipe(**GROUP.model_dump() | {"norm": "batch"})).train()
    images = torch.rand(3, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        gap = model(images)[0] - model(torch.cat([images[:1], 1 - images[1:] ** 2]))[0]
    assert gap.abs().max() > 1e-3


@pytest.mark.parametrize("channels", [8, 12, 16, 20, 32])
def test_with_groupnorm_any_width_of_the_decoder_takes_a_single_image(channels):
    model = build_victim(Recipe(norm="group", decoder_channels=channels, n_classes=3)).train()
    assert model(torch.rand(1, 3, 32, 64)).isfinite().all()


def test_an_encoder_whose_batchnorm_cannot_be_replaced_is_not_passed_off_as_groupnorm():
    recipe = Recipe(**GROUP.model_dump() | {"encoder": "tu-mobilenetv3_small_050"})
    try:
        model = build_victim(recipe)
    except ValueError:
        return
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_dropout_acts_in_training_alone_and_changes_no_name(norm):
    plain = Recipe(**GROUP.model_dump() | {"norm": norm})
    dropped = Recipe(**plain.model_dump() | {"dropout": 0.4})
    without, model = build_victim(plain, seed=1), build_victim(dropped, seed=1)
    assert same_weights(without, model)  # the same names and, from one seed, the same values
    images = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.eval()(images), model(images))
        assert torch.equal(model(images), without.eval()(images))
        model.train()
        torch.manual_seed(0)
        first, second = model(images), model(images)
        torch.manual_seed(0)
        assert not torch.equal(first, second) and torch.equal(model(images), first)


def test_dropout_takes_whole_channels():
    model = build_victim(Recipe(**GROUP.model_dump() | {"dropout": 0.5})).train()
    seen = []
    model.net.segmentation_head[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(torch.rand(8, 3, 32, 64))
    kept = (seen[0] != 0).float().mean((2, 3)).flatten()
    gone = (kept == 0).float().mean().item()
    assert len(kept) == 8 * 16 and 0.3 < gone < 0.7


@pytest.mark.parametrize(
    ("field", "value"), [("dropout", 1), ("dropout", -0.1), ("dropout", np.nan), ("norm", "layer")]
)
def test_a_recipe_refuses_another_norm_and_a_share_that_leaves_nothing(field, value):
    with pytest.raises(ValidationError, match=rf"{field}\n"):
        Recipe(**{field: value})


def test_a_recipe_from_before_norm_and_dropout_is_one_with_batchnorm_and_none():
    old = {k: v for k, v in SMALL.model_dump().items() if k not in ("norm", "dropout")}
    assert Recipe(**old) == SMALL and (SMALL.norm, SMALL.dropout) == ("batch", 0)


# ---- logits --------------------------------------------------------------------------------------


def test_logits_of_a_tensor_a_dict_and_an_object():
    images, logits = torch.rand(2, 3, 8, 16), torch.randn(2, 5, 8, 16)
    for out in (logits, {"out": logits, "aux": None}, SimpleNamespace(logits=logits)):
        assert torch.equal(logits_of(lambda _, out=out: out, images), logits)
    assert logits_of(lambda _: logits.bfloat16(), images).dtype == torch.float32


def test_logits_at_a_quarter_are_brought_to_the_grid_bilinearly():
    images, ramp = torch.rand(1, 3, 16, 32), torch.arange(8.0).expand(1, 2, 4, 8)
    found = logits_of(lambda _: SimpleNamespace(logits=ramp), images)
    assert found.shape == (1, 2, 16, 32)
    # pixel j lies at (j + .5) / 4 - .5 of the coarse grid, clamped at its ends
    expected = ((torch.arange(32) + 0.5) / 4 - 0.5).clamp(0, 7)
    assert torch.allclose(found[0, 1, 5], expected, atol=1e-5)
    assert torch.allclose(posteriors(lambda _: ramp, images).sum(1), torch.ones(1, 16, 32))


@pytest.mark.parametrize(
    ("out", "found"),
    [
        (torch.zeros(2, 5, 8), r"\(2, 5, 8\)"),
        (torch.zeros(1, 5, 8, 16), r"\(1, 5, 8, 16\)"),
        ({"logits": torch.zeros(2, 5, 8, 16)}, "dict"),
        ([torch.zeros(2, 5, 8, 16)], "list"),
        (np.zeros((2, 5, 8, 16)), "ndarray"),
        ({"out": None}, "NoneType"),
    ],
)
def test_other_outputs_are_refused_with_what_was_found(out, found):
    with pytest.raises(ValueError, match=rf"returned {found}; expected logits .*\(2, 3, 8, 16\)"):
        logits_of(lambda _: out, torch.rand(2, 3, 8, 16))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    logits = torch.zeros(2, 5, 8, 16)
    logits[1, 2, 3, 4] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        posteriors(lambda _: logits, torch.rand(2, 3, 8, 16))


def test_posterior_batches_run_over_all_scenes_in_order_in_eval_mode():
    scenes, model = scenes_of(5), Oracle().train()
    found = list(posterior_batches(model, scenes, 2))
    assert not model.training and [len(masks) for _, masks in found] == [2, 2, 1]
    assert torch.equal(torch.cat([m for _, m in found]), torch.stack([m for _, m in scenes]))
    for posterior, masks in found:
        labelled = masks != VOID
        assert torch.equal(posterior.argmax(1)[labelled], masks[labelled])


# ---- intersection over union ---------------------------------------------------------------------


def plain_iou(predicted: np.ndarray, masks: np.ndarray, n_classes: int) -> np.ndarray:
    found = []
    for c in range(n_classes):
        true, called = masks == c, (predicted == c) & (masks != VOID)
        union = (true | called).sum()
        found.append((true & called).sum() / union if true.any() else np.nan)
    return np.array(found)


def test_confusion_and_iou_are_the_plain_loop():
    rng = np.random.default_rng(0)
    masks = rng.choice([0, 1, 2, 4, VOID], (3, 9, 11))  # class 3 is absent, but predicted
    predicted = rng.integers(0, 5, masks.shape)
    confusion = confusion_matrix(torch.from_numpy(predicted), torch.from_numpy(masks), 5)
    for true in range(5):
        for called in range(5):
            assert confusion[true, called] == ((masks == true) & (predicted == called)).sum()
    found = iou_of(confusion).numpy()
    assert found.dtype == np.float64 and np.isnan(found[3])
    np.testing.assert_allclose(found, plain_iou(predicted, masks, 5), equal_nan=True)


def test_only_void_gives_no_counts_and_no_iou():
    nothing = confusion_matrix(torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), VOID), 3)
    assert nothing.sum() == 0 and iou_of(nothing).isnan().all()


def test_mean_iou_pools_over_images():
    scenes = scenes_of(5)
    assert mean_iou(Oracle(), scenes, 2) == 1
    left = Oracle(lambda images: (torch.arange(64) < 20).expand(len(images), 32, 64))
    masks = np.stack([mask.numpy() for _, mask in scenes])
    wrong = np.broadcast_to(np.arange(64) < 20, masks.shape)
    expected = plain_iou(np.where(wrong, (masks + 1) % 3, masks), masks, 3)
    assert mean_iou(left, scenes, 2) == pytest.approx(np.nanmean(expected))
    assert mean_iou(left, scenes, 5) == pytest.approx(np.nanmean(expected))


def test_a_prediction_beyond_the_classes_is_not_counted_as_another():
    with pytest.raises((ValueError, RuntimeError)):
        confusion_matrix(torch.tensor([[[4, 0]]]), torch.tensor([[[0, 0]]]), 3)


# ---- augmentation --------------------------------------------------------------------------------


def test_image_and_mask_move_together_and_no_label_is_invented():
    scenes = scenes_of(6)
    augment = augmentation(Recipe(colour=0, crop_area=0.4), (32, 64))
    torch.manual_seed(0)
    changed = 0
    for image, mask in scenes:
        moved, labels = augment(image, mask)
        assert (moved.shape, labels.shape) == (image.shape, mask.shape)
        assert type(moved) is torch.Tensor and type(labels) is torch.Tensor
        assert moved.dtype == torch.float32 and labels.dtype == torch.int64
        assert set(labels.unique().tolist()) <= {*mask.unique().tolist(), VOID}
        expected = torch.where(labels == VOID, 0, 40 + 80 * labels) / 255
        # the image is interpolated, the mask is not: they part at boundaries only
        flat = expected.unfold(0, 5, 1).unfold(1, 5, 1)
        inside = flat.amax((-1, -2)) == flat.amin((-1, -2))
        assert inside.float().mean() > 0.2
        assert torch.allclose(moved[0, 2:-2, 2:-2][inside], expected[2:-2, 2:-2][inside], atol=1e-4)
        changed += not torch.equal(labels, mask)
    assert changed >= 5


def test_flip_alone_mirrors_both_or_neither():
    (image, mask), *_ = scenes_of(1)
    augment = augmentation(Recipe(colour=0, crop_area=1), (32, 64))
    torch.manual_seed(0)
    flipped = 0
    for _ in range(20):
        moved, labels = augment(image, mask)
        mirrored = torch.equal(labels, mask.flip(-1))
        assert torch.equal(moved, image.flip(-1) if mirrored else image)
        assert mirrored or torch.equal(labels, mask)
        flipped += mirrored
    assert 0 < flipped < 20


def test_colour_leaves_the_mask_and_the_range_alone():
    (image, mask), *_ = scenes_of(1)
    moved, labels = augmentation(Recipe(**STILL | {"colour": 0.5}), (32, 64))(image, mask)
    assert torch.equal(labels, mask) and not torch.equal(moved, image)
    assert moved.min() >= 0 and moved.max() <= 1


def test_without_flip_crop_and_colour_nothing_changes():
    (image, mask), *_ = scenes_of(1)
    moved, labels = augmentation(Recipe(**STILL), (32, 64))(image, mask)
    assert torch.equal(moved, image) and torch.equal(labels, mask)


# ---- training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    return train_victim(SMALL, scenes_of(), scenes_of(2, 1), seed=3, progress=None)


def test_the_same_seed_gives_the_same_weights(trained):
    model, history = trained
    again, same = train_victim(SMALL, scenes_of(), scenes_of(2, 1), seed=3, progress=None)
    assert same_weights(model, again) and history == same and not model.training
    other, _ = train_victim(SMALL, scenes_of(), scenes_of(2, 1), seed=4, progress=None)
    assert not same_weights(model, other)
    assert [h["epoch"] for h in history] == [1, 2, 3]
    assert ["held_out_miou" in h for h in history] == [False, False, True]


def test_a_resumed_run_ends_in_the_weights_of_an_uninterrupted_one(trained, tmp_path, monkeypatch):
    whole, epochs = victims._one_epoch, []

    def interrupted(*args):
        if len(epochs) == 2:
            raise KeyboardInterrupt
        epochs.append(1)
        return whole(*args)

    path = tmp_path / "deep" / "run.pt"
    arguments = {"seed": 3, "checkpoint": path, "progress": None}
    monkeypatch.setattr(victims, "_one_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_victim(SMALL, scenes_of(), scenes_of(2, 1), **arguments)
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]
    left = []
    monkeypatch.setattr(victims, "_one_epoch", lambda *a: left.append(1) or whole(*a))
    torch.rand(7)  # whatever happened in between
    model, history = train_victim(SMALL, scenes_of(), scenes_of(2, 1), **arguments)
    assert len(left) == 1 and same_weights(model, trained[0]) and history == trained[1]
    # once complete, nothing is trained
    model, _ = train_victim(SMALL, scenes_of(), scenes_of(2, 1), **arguments)
    assert len(left) == 1 and same_weights(model, trained[0])


def test_another_recipes_seeds_or_scenes_checkpoint_is_not_used(tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr(victims, "_one_epoch", lambda *_: epochs.append(1) or 1.0)
    monkeypatch.setattr(victims, "mean_iou", lambda *_: 0.5)
    path, recipe = tmp_path / "run.pt", SMALL.model_copy(update={"lr": 1e-3})
    members, held_out = scenes_of(), scenes_of(2, 1)
    train_victim(SMALL, members, held_out, seed=3, checkpoint=path, progress=None)
    content = path.read_bytes()
    for case, trained_epochs in (
        ((SMALL, members, held_out, 3), 0),
        ((recipe, members, held_out, 3), 3),
        ((SMALL, scenes_of(seed=2), held_out, 3), 3),
        ((SMALL, members, scenes_of(2, 4), 3), 3),
        ((SMALL, members, held_out, 5), 3),
    ):
        path.write_bytes(content)
        epochs.clear()
        train_victim(*case[:3], seed=case[3], checkpoint=path, progress=None)
        assert len(epochs) == trained_epochs


def test_the_best_held_out_weights_are_kept_and_patience_ends_the_run(monkeypatch):
    looks, seen = iter([0.2, 0.5, 0.4, 0.3]), []

    def look(model, held_out):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return next(looks)

    monkeypatch.setattr(victims, "mean_iou", look)
    recipe = SMALL.model_copy(update={"epochs": 9, "check_every": 1, "patience": 2})
    model, history = train_victim(recipe, scenes_of(4), scenes_of(1, 1), seed=0, progress=None)
    assert [h["held_out_miou"] for h in history] == [0.2, 0.5, 0.4, 0.3]
    assert all(torch.equal(v, seen[1][k]) for k, v in model.state_dict().items())


def test_scenes_that_do_not_fit_the_recipe_are_refused():
    members, held_out = scenes_of(), scenes_of(2, 1)
    with pytest.raises(ValueError, match="recipe has 19 classes, the members 3, the held-out"):
        train_victim(Recipe(), members, held_out, seed=0)
    with pytest.raises(ValueError, match=r"3 members and 2 held-out scenes: .*one batch \(4\)"):
        train_victim(SMALL, members.subset(range(3)), held_out, seed=0)
    with pytest.raises(ValueError, match="8 members and 0 held-out scenes"):
        train_victim(SMALL, members, held_out.subset([]), seed=0)


def test_held_out_scenes_without_a_label_are_refused():
    images = np.zeros((2, 3, 32, 64), np.uint8)
    void = Scenes.from_arrays(images, np.full((2, 32, 64), VOID, np.uint8), ["a", "b"], NAMES)
    with pytest.raises(ValueError, match="held-out"):
        train_victim(SMALL, scenes_of(4), void, seed=0, progress=None)


@pytest.mark.parametrize("damage", ["empty", "half", "text", "no zip", "foreign"])
def test_a_torn_checkpoint_says_what_to_do(tmp_path, damage):
    path = tmp_path / "run.pt"
    torch.save({"identity": "x"} if damage != "foreign" else {"epoch": torch.rand(99)}, path)
    content = path.read_bytes()
    torn = {"empty": b"", "half": content[: len(content) // 2], "text": b"hello\n" * 9}
    path.write_bytes(torn.get(damage, b"garbage" if damage == "no zip" else content))
    with pytest.raises(ValueError, match=r"run\.pt cannot be read .*delete it to start afresh"):
        train_victim(SMALL, scenes_of(), scenes_of(2, 1), seed=0, checkpoint=path, progress=None)


# ---- weights on disk -----------------------------------------------------------------------------


@pytest.fixture
def stored(trained, tmp_path):
    path = tmp_path / "weights" / "victim.safetensors"
    return path, save_weights(trained[0], path, {"recipe": SMALL.model_dump(), "seed": 3})


def test_weights_come_back_as_they_were_up_to_half_precision(trained, stored):
    path, digest = stored
    assert digest == sha256(path) and [p.name for p in path.parent.iterdir()] == [path.name]
    model, meta = load_victim(path, digest)
    assert meta == {"recipe": SMALL.model_dump(), "seed": 3} and not model.training
    ours, theirs = trained[0].state_dict(), model.state_dict()
    for name, value in theirs.items():
        half = ours[name].half().float() if ours[name].is_floating_point() else ours[name]
        assert torch.equal(value, half) and value.dtype == ours[name].dtype
    images = torch.stack([image for image, _ in scenes_of()])
    gap = (posteriors(model, images) - posteriors(trained[0], images)).abs().max()
    assert gap < 5e-3
    assert save_weights(trained[0], path, meta) == digest  # the same file again


def test_weights_too_large_for_half_precision_are_refused(tmp_path):
    net = nn.BatchNorm2d(2)
    net.running_var.fill_(1e6)
    with pytest.raises(ValueError, match="running_var"):
        save_weights(net, tmp_path / "net.safetensors", {})


def test_int8_keeps_each_weight_within_half_a_step(trained, tmp_path):
    path = tmp_path / "net.safetensors"
    digest = save_weights(trained[0], path, {"recipe": SMALL.model_dump()}, torch.int8)
    state, _ = victims.read_weights(path, digest)
    whole = trained[0].state_dict()
    assert state.keys() == whole.keys()
    for name, value in whole.items():
        if value.ndim > 1:
            step = value.flatten(1).abs().amax(1) / 127
            error = (state[name] - value).flatten(1).abs().amax(1)
            assert (error <= 0.51 * step + 1e-6).all(), name
        else:
            torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-4)
    half = tmp_path / "half.safetensors"
    save_weights(trained[0], half, {"recipe": SMALL.model_dump()})
    assert path.stat().st_size < 0.75 * half.stat().st_size
    again, _ = victims.load_victim(path, digest)
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    a, b = (victims.posteriors(net, images) for net in (trained[0], again))
    assert (a - b).abs().max() < 0.1


def test_another_file_than_the_manifests_is_refused(stored):
    path, digest = stored
    with pytest.raises(ValueError, match=r"victim\.safetensors is not the file the manifest names"):
        load_victim(path, digest[:-1] + ("0" if digest[-1] != "0" else "1"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"expected {digest[:12]}…; restore it from git"):
        load_victim(path, digest)


@pytest.mark.parametrize("damage", ["empty", "half", "text"])
def test_a_damaged_file_is_named(stored, damage):
    path, _ = stored
    content = path.read_bytes()
    torn = {"empty": b"", "half": content[: len(content) // 2], "text": b"no safetensors at all"}
    path.write_bytes(torn[damage])
    with pytest.raises(ValueError, match=r"victim\.safetensors is not a readable safetensors file"):
        load_victim(path)


def test_a_file_without_recipe_and_a_missing_one_are_named(trained, tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no file .*x\.safetensors"):
        load_victim(path)
    save_file({"weight": torch.zeros(2)}, path)
    assert read_weights(path)[1] == {}
    with pytest.raises(ValueError, match=r"x\.safetensors holds no victim: .*no 'recipe'"):
        load_victim(path)
    save_file({"weight": torch.zeros(2)}, path, {"meta": "{half"})
    with pytest.raises(ValueError, match=r"x\.safetensors is not a readable"):
        load_victim(path)
    save_weights(trained[0], path, {"recipe": SMALL.model_dump() | {"n_classes": 4}})
    with pytest.raises(ValueError, match=r"x\.safetensors does not fit its own recipe"):
        load_victim(path)


def test_an_attackers_file_is_no_victim(tmp_path):
    path = tmp_path / "attack.safetensors"
    save_weights(nn.Linear(2, 2), path, {"recipe": {"representation": "loss map", "patch": 90}})
    with pytest.raises(ValueError, match=r"attack\.safetensors"):
        load_victim(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "file"
    replace_file(path, lambda part: part.write_text("old"))

    def fails(part):
        part.write_text("half of")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, fails)
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    with pytest.raises(OSError, match="no space"):
        replace_file(path.with_name("other"), lambda _: (_ for _ in ()).throw(OSError("no space")))
    assert list(path.parent.iterdir()) == [path]
