"""Victims: recipes, logits of any model, scores of a segmentation, training, weights on disk."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn
from torch.overrides import TorchFunctionMode
from toy_victims import SMALL, same_weights

from segleak_utils.victims import Recipe, build_victim, fingerprint, posteriors
from segleak_utils.victims.dpsgd import check_private

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


@pytest.mark.slow
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


# ---- who it is -----------------------------------------------------------------------------------


def test_a_network_is_known_by_its_layers_and_its_state():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout2d(0.25))
    own = fingerprint(net)
    assert own == fingerprint(copy.deepcopy(net).to(memory_format=torch.channels_last).eval())
    for change in (
        lambda of: of[0].weight.data.view(-1)[0].add_(1e-6),
        lambda of: of[1].running_mean.data[0].add_(1e-6),
        lambda of: setattr(of[2], "p", 0.5),
        lambda of: of.append(nn.ReLU()),
        lambda of: of.double(),
    ):
        other = copy.deepcopy(net)
        change(other)
        assert fingerprint(other) != own


@pytest.mark.parametrize("model", [nn.ReLU(), lambda images: images])
def test_a_model_of_which_nothing_can_be_told_is_refused(model):
    with pytest.raises(ValueError, match="has no weights to know it by; wrap it"):
        fingerprint(model)


class LinearMaps(TorchFunctionMode):
    """Counts the linear layers on maps [N,H,W,C]."""

    n = 0

    def __torch_function__(self, func, types, args=(), kwargs=None) -> object:
        self.n += func is F.linear and args[0].ndim == 4
        return func(*args, **(kwargs or {}))


def test_many_images_are_answered_as_few_are():
    """Linear layers are convolutions then, unless it is a training: the same sums."""
    model = build_victim(Recipe(decoder_channels=8), seed=0).eval()
    images = torch.rand(16, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, mode, batch in (
        ("many", torch.inference_mode, 16),
        ("few", torch.inference_mode, 8),
        ("in training", torch.no_grad, 16),
    ):
        with mode(), LinearMaps() as seen:
            answers = torch.cat([model(part) for part in images.split(batch)])
        found[name] = answers.clone(), seen.n
    assert found["many"][1] == 0 < found["in training"][1] < found["few"][1]
    for name in ("few", "in training"):
        torch.testing.assert_close(found[name][0], found["many"][0], rtol=1e-4, atol=1e-4)
