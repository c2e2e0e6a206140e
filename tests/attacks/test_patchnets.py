"""The patch networks, and the public checkpoints."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from toy_outputs import net_of, seeded

from segleak_utils.attacks import patch_scores
from segleak_utils.attacks.patchnets import (
    CALIBRATED_MAP,
    REPRESENTATIONS,
    PatchNet,
    deep_stem_resnet50,
    load_public_attacker,
)
from segleak_utils.representations import one_hot


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (31, 17), (90, 90)])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_the_patch_net_takes_patches_of_any_size(representation, size):
    net = net_of(representation)
    assert net(torch.rand(2, net.channels, *size)).shape == (2, 2)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("representation", [*REPRESENTATIONS, CALIBRATED_MAP])
def test_a_patch_net_is_what_its_formula_says(representation, grad):
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 4, (2, 22, 26), generator=generator)
    label = one_hot(torch.where(mask == 3, 255, mask), 3)  # some void
    loss = 4 * torch.rand(2, 1, 22, 26, generator=generator) * label.sum(1, keepdim=True)
    more, maps = [], [loss, label]
    if representation == CALIBRATED_MAP:
        other = 6 * torch.rand(loss.shape, generator=generator) - 3
        theirs = (loss - other).relu()
        more = [other / 2, loss.log1p() - theirs.log1p(), (other.abs() - 2).relu() / 4]
        maps = [loss, other, label]
    elif representation == "concatenation":
        more = [torch.rand(2, 3, 22, 26, generator=generator).softmax(1)]
        maps = [*more, label]
        true = (more[0] * label).sum(1, keepdim=True)
        loss = -torch.where(true > 0, true, 1).log()
    elif representation == "loss map":
        label, maps = label[:, :0], [loss]
    torch.manual_seed(1)
    net = PatchNet(representation, 3, width=8).eval()
    seen = torch.cat([*more, loss / 2, loss.log1p(), (loss - 2).relu() / 4], 1)
    local = net.see(seen) * net.gate(torch.cat([label, torch.ones_like(loss)], 1))
    deep = net.body[1:](F.avg_pool2d(local, 2))
    expected = net.head(torch.cat([local.mean((2, 3)), deep.mean((2, 3))], 1))
    with torch.set_grad_enabled(grad):
        assert torch.allclose(net(torch.cat(maps, 1)), expected, atol=1e-5)


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


@pytest.mark.slow
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
