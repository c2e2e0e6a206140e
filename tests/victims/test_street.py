"""Victims of the paper's kind: recipe, crops, one process and two, encoders, inference."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn
from two_processes import NAMES, SEED, SMALL, gap, interrupted_at, scenes_of

from segleak_utils.data import VOID, Scenes
from segleak_utils.victims import Recipe, build_victim, load_victim, posteriors
from segleak_utils.victims.encoders import fetch_encoder
from segleak_utils.victims.processes import run_processes
from segleak_utils.victims.street import (
    Crops,
    StreetRecipe,
    batches,
    global_loss,
    save_street_victim,
    seed_of,
    train_street_victim,
)

TESTS = Path(__file__).parents[1]
# Largest weight difference that two processes may make to one, after 2 epochs that move weights by
# up to 9e-3. They add in another order; 1.2e-7 was measured, and 9e-3 with each its own mean loss.
TOLERANCE = 1e-5


def changed(**changes) -> StreetRecipe:
    return StreetRecipe(**{**SMALL.model_dump(), **changes})


def trained(recipe: StreetRecipe = SMALL, members=None, seed: int = SEED, checkpoint=None):
    members = members or scenes_of()
    return train_street_victim(recipe, members, seed=seed, checkpoint=checkpoint, progress=None)


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu():
    """Where results are the same to the last bit."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: False)
        yield


@pytest.fixture(scope="module")
def alone():
    return trained()


# ---- recipe and network --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [({"arch": "fpn"}, "arch"), ({"epoch": 1}, "epoch\n"), ({"crop": (30, 64)}, "multiples of 32"),
     ({"crop": (0, 64)}, "multiples of 32"), ({"scale": (2, 0.5)}, "smallest <= largest"),
     ({"scale": (0, 1)}, "smallest <= largest"), ({"output_stride": 8}, "output_stride is for"),
     ({"arch": "pspnet", "output_stride": 4}, "output_stride"), ({"batch": 0}, "batch"),
     ({"encoder_weights": "x"}, "do not fit norm='group'"), ({"lr": 0}, "lr")],
    ids=str,
)  # fmt: skip
def test_a_recipe_refuses_what_does_not_go_together(change, message):
    with pytest.raises(ValidationError, match=message):
        changed(**change)


def test_a_recipe_survives_json_and_holds_its_network():
    recipe = StreetRecipe(arch="pspnet", output_stride=8, encoder_weights="a/b.safetensors")
    assert StreetRecipe(**json.loads(recipe.model_dump_json())) == recipe
    assert recipe.network.decoder_channels is None and recipe.network.output_stride == 8


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(
    ("arch", "stride"), [("upernet", None), ("pspnet", None), ("pspnet", 8), ("deeplabv3plus", 16)]
)
def test_every_architecture_takes_its_steps(arch, stride, norm):
    recipe = changed(arch=arch, output_stride=stride, norm=norm, epochs=1, lr=1e-3)
    model, history = trained(recipe, scenes_of(4))
    assert [h["epoch"] for h in history] == [1] and 0 < history[0]["loss"] < 5
    assert gap(model.state_dict(), build_victim(recipe.network, seed=SEED).state_dict()) > 0
    assert posteriors(model, torch.rand(1, 3, 32, 64)).shape == (1, 3, 32, 64)


@pytest.mark.parametrize("arch", ["pspnet", "deeplabv3plus"])
@pytest.mark.parametrize("stride", [8, 16])
def test_a_dilated_encoder_keeps_its_last_stages_at_the_stride(arch, stride):
    model = build_victim(Recipe(arch=arch, encoder="resnet18", n_classes=3, output_stride=stride))
    features = model.eval().net.encoder(torch.rand(1, 3, 64, 96))
    assert len(features) == 6 and features[-1].shape[1:] == (512, 64 // stride, 96 // stride)
    assert model(torch.rand(1, 3, 64, 96)).shape == (1, 3, 64, 96)


def test_what_cannot_be_dilated_is_refused_and_old_recipes_still_compare_equal():
    with pytest.raises(ValueError, match="output_stride=8 with arch='upernet': only pspnet"):
        build_victim(Recipe(output_stride=8))
    old = {k: v for k, v in Recipe().model_dump().items() if k != "output_stride"}
    assert Recipe(**old) == Recipe()


# ---- crops ---------------------------------------------------------------------------------------


def test_a_crop_follows_from_seed_epoch_and_index_alone():
    members = scenes_of()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    crops = [Crops(members, SMALL, seed, epoch)[2] for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert torch.equal(torch.rand(3), expected)  # nothing else is touched
    again = Crops(members, SMALL, 0, 1)
    _, (image, mask) = again[5], again[2]
    assert torch.equal(image, crops[1][0]) and torch.equal(mask, crops[1][1])
    assert not torch.equal(crops[0][0], crops[1][0]) and not torch.equal(crops[1][0], crops[2][0])
    assert image.shape == (3, 32, 64) and image.dtype == torch.float32 and mask.shape == (32, 64)
    assert mask.dtype == torch.int64 and type(image) is type(mask) is torch.Tensor


def test_image_and_mask_move_together_and_the_outside_is_void():
    members = scenes_of(1, height=64, width=128)
    plain = changed(crop=(64, 128), scale=(0.5, 2.0), colour=0)
    zooms, outside = set(), 0
    for epoch in range(12):
        image, mask = Crops(members, plain, 0, epoch)[0]
        expected = torch.where(mask == VOID, 0, 40 + 80 * mask) / 255
        flat = expected.unfold(0, 5, 1).unfold(1, 5, 1)
        inside = flat.amax((-1, -2)) == flat.amin((-1, -2))
        # the image is interpolated, the mask is not: they part at boundaries only
        assert torch.allclose(image[0, 2:-2, 2:-2][inside], expected[2:-2, 2:-2][inside], atol=1e-4)
        outside += (mask == VOID).any().item()
        zooms.add(inside.float().mean().item())
    assert len(zooms) > 8 and 0 < outside < 12


def test_unzoomed_whole_scenes_come_back_as_they_are_or_mirrored():
    members = scenes_of(2)
    recipe = changed(scale=(1, 1), colour=0)
    mirrored = 0
    for epoch in range(10):
        image, mask = Crops(members, recipe, 0, epoch)[1]
        plain = torch.equal(mask, members[1][1])
        assert plain or torch.equal(mask, members[1][1].flip(-1))
        assert torch.equal(image, members[1][0] if plain else members[1][0].flip(-1))
        mirrored += not plain
    assert 0 < mirrored < 10
    image, mask = Crops(members, changed(scale=(1, 1), flip=False), 0, 0)[1]
    assert torch.equal(mask, members[1][1]) and not torch.equal(image, members[1][0])


@pytest.mark.parametrize("world", [2, 4])
def test_the_processes_batches_are_the_single_ones(world):
    members = scenes_of(11)
    recipe = changed(batch=4, flip=False, colour=0, scale=(1, 1))

    def keys(images):
        return sorted(image.sum().item() for image in images)

    for epoch in (0, 1):
        single = [keys(images) for images, _ in batches(members, recipe, seed=5, epoch=epoch)]
        parts = [
            list(batches(members, recipe, seed=5, epoch=epoch, rank=rank, world=world))
            for rank in range(world)
        ]
        assert [len(part) for part in parts] == [len(single)] * world == [2] * world
        for step, expected in enumerate(single):
            images = torch.cat([part[step][0] for part in parts])
            assert len(images) == 4 and keys(images) == expected
    first = [keys(images) for images, _ in batches(members, recipe, seed=5, epoch=0)]
    assert first != single  # another epoch, another order


def test_workers_change_nothing():
    members = scenes_of()
    found = [
        list(batches(members, changed(workers=workers), seed=1, epoch=2)) for workers in (0, 2)
    ]
    for (images, masks), (others, other_masks) in zip(*found, strict=True):
        assert torch.equal(images, others) and torch.equal(masks, other_masks)


def test_seeds_are_not_alike_by_their_sum():
    assert len({seed_of(a, b, c) for a in range(4) for b in range(4) for c in range(4)}) == 64
    assert 0 <= seed_of(0) < 2**64


# ---- training ------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_labelled_pixels_and_zero_without_any():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    masks = torch.randint(0, 3, (2, 4, 4))
    masks[0, 1:] = VOID
    assert torch.allclose(
        global_loss(logits, masks), F.cross_entropy(logits, masks, ignore_index=VOID)
    )
    loss = global_loss(logits, torch.full((2, 4, 4), VOID))
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().max() == 0


@pytest.mark.slow
def test_two_processes_train_what_one_does(alone, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run_processes(2, "two_processes", [str(tmp_path)]) == 0
    both = [json.loads((tmp_path / f"found{rank}.json").read_text()) for rank in (0, 1)]
    weights = [torch.load(tmp_path / f"weights{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert gap(*weights) == 0
    assert gap(alone[0].state_dict(), weights[0]) < TOLERANCE
    for ours, theirs in zip(alone[1], both[0]["history"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    assert [found["first"] for found in both] == [True, False]
    for found in both:
        assert found["naive"] > 100 * TOLERANCE  # the loss counts all processes' pixels
        assert found["stopped_after"] == 1 and found["resumed"] == [0, True]
        assert found["odd"].startswith("a batch of 5 cannot be shared by 2 processes")
    assert len(both[0]["warnings"]) == 1 and not both[1]["warnings"]
    assert both[0]["warnings"][0].startswith("batch norms are not synchronised on the CPU")
    assert {p.name for p in tmp_path.iterdir()} == {
        "run.pt", "found0.json", "found1.json", "weights0.pt", "weights1.pt"
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"arch": "deeplabv3plus", "norm": "batch", "workers": 2}],
    ids=["upernet", "dropout, batch norm and workers"],
)
def test_an_interrupted_run_ends_in_the_weights_of_an_uninterrupted_one(
    changes, tmp_path, monkeypatch
):
    recipe = changed(**changes, epochs=2)
    expected, history = trained(recipe)
    path = tmp_path / "deep" / "run.pt"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("segleak_utils.victims.street.global_loss", interrupted_at(4))
        trained(recipe, checkpoint=path)
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]
    torch.rand(5)  # whatever happened in between
    model, resumed = trained(recipe.model_copy(update={"workers": 0}), checkpoint=path)
    assert gap(model.state_dict(), expected.state_dict()) == 0 and resumed == history
    # once complete, nothing is trained
    monkeypatch.setattr("segleak_utils.victims.street.global_loss", interrupted_at(1))
    assert gap(trained(recipe, checkpoint=path)[0].state_dict(), expected.state_dict()) == 0


def test_another_recipes_seeds_or_members_checkpoint_is_not_used(tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr(
        "segleak_utils.victims.street._one_epoch", lambda *_: epochs.append(1) or 1.0
    )
    path, members = tmp_path / "run.pt", scenes_of()
    trained(members=members, checkpoint=path)
    content = path.read_bytes()
    for recipe, scenes, seed, expected in (
        (SMALL, members, SEED, 0),
        (changed(workers=3), members, SEED, 0),
        (changed(lr=0.02), members, SEED, 2),
        (SMALL, scenes_of(seed=1), SEED, 2),
        (SMALL, members, SEED + 1, 2),
    ):
        path.write_bytes(content)
        epochs.clear()
        trained(recipe, scenes, seed, path)
        assert len(epochs) == expected
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"run\.pt cannot be read .*delete it"):
        trained(members=members, checkpoint=path)


def test_the_rate_falls_by_the_power_of_what_is_left(monkeypatch):
    rates = []

    def epoch(network, crops, optimiser, schedule, bar):
        for _ in crops:
            rates.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step()
        return 1.0

    monkeypatch.setattr("segleak_utils.victims.street._one_epoch", epoch)
    trained(changed(epochs=3, power=0.9, lr=0.02))
    assert rates == pytest.approx([0.02 * (1 - step / 6) ** 0.9 for step in range(6)])


def test_what_does_not_go_together_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="recipe has 19 classes, the members 3"):
        trained(changed(n_classes=19))
    with pytest.raises(ValueError, match=r"3 members; at least one batch \(4\)"):
        trained(members=scenes_of(3))
    with pytest.raises(ValueError, match="a single image"):
        trained(changed(norm="batch", batch=1))
    with pytest.raises(ValueError, match="seed -1"):
        trained(seed=-1)
    path = tmp_path / "run.pt"
    monkeypatch.setattr("segleak_utils.victims.street._one_epoch", lambda *_: float("nan"))
    with pytest.raises(ValueError, match=r"loss is nan in epoch 1: .*lower lr"):
        trained(checkpoint=path)
    assert not path.exists()


def test_members_without_a_label_give_no_nan():
    images = np.arange(4, dtype=np.uint8).repeat(3 * 32 * 64).reshape(4, 3, 32, 64)
    void = Scenes.from_arrays(images, np.full((4, 32, 64), VOID, np.uint8), list("abcd"), NAMES)
    model, history = trained(members=void)
    assert [h["loss"] for h in history] == [0, 0]
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


# ---- on disk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["upernet", "pspnet"])
def test_a_stored_victim_is_built_again(arch, tmp_path):
    recipe = changed(arch=arch, norm="batch", output_stride=8 if arch == "pspnet" else None)
    model = build_victim(recipe.network, seed=1).eval()
    digest = save_street_victim(model, tmp_path / "v.safetensors", recipe, {"kind": "network"})
    loaded, meta = load_victim(tmp_path / "v.safetensors", digest)
    assert meta["kind"] == "network" and StreetRecipe(**meta["training"]) == recipe
    assert meta["recipe"].keys() == {
        "arch", "encoder", "decoder_channels", "n_classes", "norm", "output_stride"
    }  # fmt: skip
    images = torch.stack([image for image, _ in scenes_of(2)])
    expected = posteriors(model, images)
    assert (posteriors(loaded.cpu(), images) - expected).abs().max() < 5e-3


def test_synchronised_norms_keep_the_weights_names():
    model = build_victim(changed(norm="batch").network, seed=1)
    names = [*model.state_dict()]
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    assert [*model.state_dict()] == names


# ---- encoder weights -----------------------------------------------------------------------------


@pytest.fixture
def encoder(tmp_path):
    torch.manual_seed(7)
    net = smp.encoders.get_encoder("resnet18", weights=None)
    save_file(net.state_dict(), tmp_path / "resnet18.safetensors")
    return tmp_path / "resnet18.safetensors"


@pytest.mark.parametrize("stride", [None, 8])
def test_training_starts_from_the_encoders_weights(stride, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("segleak_utils.victims.street._one_epoch", lambda *_: 1.0)
    recipe = changed(
        norm="batch",
        encoder_weights=encoder,
        arch="pspnet" if stride else "upernet",
        output_stride=stride,
    )
    model, _ = trained(recipe, checkpoint=tmp_path / "run.pt")
    assert gap(model.net.encoder.state_dict(), load_file(encoder)) == 0
    # the identity of a run follows from what the file holds, not from where it lies
    moved = encoder.rename(encoder.with_name("moved.safetensors"))
    monkeypatch.setattr("segleak_utils.victims.street._one_epoch", None)
    trained(recipe.model_copy(update={"encoder_weights": moved}), checkpoint=tmp_path / "run.pt")


def test_encoder_weights_that_are_missing_or_do_not_fit_are_named(encoder, tmp_path):
    recipe = changed(norm="batch", encoder_weights=tmp_path / "no.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no\.safetensors.*utils\.run encoder resn"):
        trained(recipe)
    recipe = changed(norm="batch", encoder="resnet34", encoder_weights=encoder)
    with pytest.raises(ValueError, match=r"resnet18\.safetensors does not hold .* of resnet34"):
        trained(recipe)
    encoder.write_bytes(encoder.read_bytes()[:1000])
    with pytest.raises(ValueError, match="does not hold the weights of resnet18"):
        trained(changed(norm="batch", encoder_weights=encoder))


def test_a_fetched_encoder_is_stored_and_kept(tmp_path, monkeypatch):
    build, asked = smp.encoders.get_encoder, []

    def fetched(name, weights=None, **others):
        asked.append((name, weights))
        return build(name, weights=None, **others)

    monkeypatch.setattr("segleak_utils.victims.encoders._reach", lambda url: None)
    monkeypatch.setattr(smp.encoders, "get_encoder", fetched)
    path = tmp_path / "encoders" / "resnet18.safetensors"
    digest = fetch_encoder("resnet18", path)
    assert asked == [("resnet18", "imagenet")] and [*path.parent.iterdir()] == [path]
    assert load_file(path).keys() == build("resnet18", weights=None).state_dict().keys()
    assert fetch_encoder("resnet18", path) == digest and asked[1:] == [("resnet18", None)]
    fetch_encoder("tu-resnet18", path.with_name("tu"))
    assert asked[2:] == [("tu-resnet18", True)]
    with pytest.raises(ValueError, match=r"resnet18\.safetensors does not hold .* of resnet34"):
        fetch_encoder("resnet34", path)


def test_without_a_network_fetching_fails_at_once_and_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("no_proxy", "*")
    began = time.monotonic()
    for name in ("resnet18", "tu-resnet18"):
        with pytest.raises(ConnectionError, match=f"weights of {name} cannot be") as caught:
            fetch_encoder(name, tmp_path / "x")
        for told in ("http://127.0.0.1:9", f"run encoder {name}", str(tmp_path / "x")):
            assert told in str(caught.value)
    assert time.monotonic() - began < 5 and not [*tmp_path.iterdir()]
    for name in ("resnet19", "tu-resnet19"):
        with pytest.raises(ValueError, match=f"encoder '{name}' has no ImageNet weights"):
            fetch_encoder(name, tmp_path / "x")
