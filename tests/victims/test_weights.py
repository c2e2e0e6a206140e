"""Weights on disk."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from toy_victims import SMALL, scenes_of

from segleak_utils import victims
from segleak_utils.victims import load_victim, posteriors, read_weights, save_weights, train_victim
from segleak_utils.victims.networks import Recipe
from segleak_utils.victims.street import StreetRecipe
from segleak_utils.whole import replace_file, sha256

# ---- training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    return train_victim(SMALL, scenes_of(), scenes_of(2, 1), seed=3, progress=None)


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
    assert read_weights(path, sha256(path))[1] == {}
    with pytest.raises(ValueError, match=r"x\.safetensors holds no victim: .*no 'recipe'"):
        load_victim(path, sha256(path))
    save_file({"weight": torch.zeros(2)}, path, {"meta": "{half"})
    with pytest.raises(ValueError, match=r"x\.safetensors is not a readable"):
        load_victim(path, sha256(path))
    save_weights(trained[0], path, {"recipe": SMALL.model_dump() | {"n_classes": 4}})
    with pytest.raises(ValueError, match=r"x\.safetensors does not fit its own recipe"):
        load_victim(path)


def test_weights_that_nothing_vouches_for_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.zeros(2)}, path, {"meta": "{}"})
    with pytest.raises(
        ValueError, match=r"x\.safetensors has no checksum .* expected=\.\.\., from"
    ):
        read_weights(path)
    assert read_weights(path, sha256(path))[1] == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8])
def test_a_bit_turned_over_is_found_without_an_expected_hash(tmp_path, dtype):
    path, net = tmp_path / "x.safetensors", nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    save_weights(net, path, {"seed": 3}, dtype)
    assert read_weights(path)[1] == {"seed": 3}
    whole = path.read_bytes()
    for at in (len(whole) - 1, whole.index(b"seed")):  # a weight, and a letter of the meta
        content = bytearray(whole)
        content[at] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.safetensors is damaged: .* its header says"):
            read_weights(path)


def named(meta: object, text: str | None = None) -> dict[str, str]:
    return {"meta": json.dumps(meta) if text is None else text}


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (named(None), "its meta is a NoneType, expected a dict"),
        (named([1]), "its meta is a list"),
        (named(None, "[" * 200_000), r"its meta is no JSON \(RecursionError\)"),
        (named(None, '{"a": ' + "9" * 5000 + "}"), "its meta is no JSON"),
        (named({"recipe": None}), "its recipe is a NoneType"),
        (named({"recipe": [1]}), "its recipe is a list"),
        (named({"recipe": {"n_classes": 10**6}}), "n_classes: .*less than or equal to 255"),
        (named(None, '{"recipe": {"arch": ' + "[" * 900 + "]" * 900 + "}}"), "arch: .*string"),
        (named({"recipe": {"encoder": "tu-hf-hub:timm/resnet18"}}), "encoder: .*pattern"),
        (named({"recipe": {"encoder": "tu-local-dir:."}}), "encoder: .*pattern"),
        (named({"recipe": {"arch": "../upernet"}}), "arch: .*pattern"),
    ],
)
def test_a_header_that_is_no_recipe_is_a_value_error(tmp_path, header, complaint):
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.zeros(2)}, path, header)
    with pytest.raises(ValueError, match=rf"x\.safetensors.*{complaint}"):
        load_victim(path, sha256(path))  # the file is whole: it is what it says that is wrong


@pytest.mark.parametrize("steps", [torch.ones(3), torch.ones(2)])
def test_steps_without_their_weights_are_named(tmp_path, steps):
    path = tmp_path / "x.safetensors"
    tensors = {"b.int8_scale": steps} | ({"b": torch.zeros(3, 1)} if len(steps) == 2 else {})
    save_weights(tensors, path, {})
    with pytest.raises(ValueError, match=r"x\.safetensors: its int8 steps do not fit"):
        read_weights(path)


@pytest.mark.parametrize("made", [Recipe, StreetRecipe])
@pytest.mark.parametrize(
    "name", ["", "tu-hf-hub:a/b", "hf_hub:a", "local-dir:x", "a/b", r"a\b", "..", "a\n", "a" * 101]
)
def test_a_recipes_encoder_is_a_plain_name(made, name):
    with pytest.raises(ValidationError, match="encoder"):
        made(encoder=name)
    assert made(encoder="tu-resnet50.a1_in1k").encoder == "tu-resnet50.a1_in1k"


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
