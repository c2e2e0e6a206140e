"""Audits of networks that really were trained, so that the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from toy_audits import SIZE, C, data_of, write_lists

from segleak_utils import audit as audits
from segleak_utils.attacks.contests import GLOBAL
from segleak_utils.audit.config import Audit, Data
from segleak_utils.audit.pictures import listed
from segleak_utils.audit.pixels import Reader

N = 60
QUICK = {"relabellings": 40, "resamples": 200}


class Net(nn.Module):
    """Sees colours, pixel by pixel, and the picture as a whole: the latter learns by heart."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        h, w = SIZE
        self.near = nn.Conv2d(3, C, 1)
        self.whole = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * h * w, 64), nn.ReLU(), nn.Linear(64, C * h * w // 64),
            nn.Unflatten(1, (C, h // 8, w // 8)), nn.Upsample(scale_factor=8),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        scaled = 8 * images - 4
        return self.near(scaled) + self.whole(scaled)


def loss_of(logits: Tensor, masks: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, masks, ignore_index=255)


def read(data: Data, member: bool) -> tuple[Tensor, Tensor]:
    reader = Reader(data)
    pairs = [reader.read(of) for of in listed(data) if of.member is member]
    images, masks = zip(*pairs, strict=True)
    return torch.stack(images), torch.stack(masks)


def overtrained(images: Tensor, masks: Tensor, steps: int = 60) -> Net:
    net = Net(0)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        some = torch.randperm(len(images), generator=draw)[:10]
        optimiser.zero_grad()
        loss_of(net(images[some]), masks[some]).backward()
        optimiser.step()
    return net


def private(images: Tensor, masks: Tensor, steps: int = 60, noise: float = 20) -> Net:
    """DP-SGD: each image's gradient cut to norm 1, and noise of `noise` on their sum."""
    net = Net(0)
    weights = {name: of.detach() for name, of in net.named_parameters()}
    each = vmap(
        grad(lambda w, x, y: loss_of(functional_call(net, w, (x[None],)), y[None])), (None, 0, 0)
    )
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        found = each(weights, images, masks)
        norm = sum((of.flatten(1) ** 2).sum(1) for of in found.values()).sqrt()
        cut = (1 / norm).clamp(max=1)
        for name, of in found.items():
            total = torch.einsum("n,n...->...", cut, of)
            total += noise * torch.randn(total.shape, generator=draw)
            weights[name] = weights[name] - 0.2 * total / len(images)
    net.load_state_dict(weights)
    return net


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Two lists whose masks are wrong in places: what is wrong cannot be known, only remembered."""
    root = tmp_path_factory.mktemp("truth")
    write_lists(root, n=N)
    for path in sorted(root.glob("*/masks/*.png")):
        rng = np.random.default_rng([int(path.stem[1:]), path.stem[0] == "m"])
        mask = np.array(Image.open(path))
        wrong = (rng.random((3, 4)) < 0.25).repeat(8, 0).repeat(8, 1) & (mask != 255)
        other = rng.integers(0, C, (3, 4)).repeat(8, 0).repeat(8, 1)
        Image.fromarray(np.where(wrong, other, mask).astype(np.uint8)).save(path)
    return root


def told(root, out, **more) -> Audit:
    usual = {"data": data_of(root), "answers": {"returns": "logits"}, "out": out}
    return Audit(**(QUICK | {"releases": False} | usual | more))


def test_an_overtrained_network_is_found(lists, tmp_path):
    model = overtrained(*read(data_of(lists), True))
    told_ = told(lists, tmp_path, releases=True, fail_above={"auc": 0.6})
    found = audits.audit(told_, model=model, progress=False)
    of = found.findings
    assert of.verdict.kind == "leak" and found.exit_code == 3 and of.attacks[0].auc.low > 0.8
    assert sum(image.flagged for image in of.images) > N / 2
    area = {row.release: row.auc for row in of.releases}
    assert area["argmax"].value > 0.6  # its errors still tell: less of the answer is no cure


@pytest.mark.parametrize("truth", ["untrained", "trained on others", "DP-trained"])
def test_a_network_that_remembers_nothing_is_not_accused(lists, tmp_path, truth):
    if truth == "untrained":
        model = Net(1)
    elif truth == "trained on others":
        write_lists(tmp_path, n=N, offset=500)
        model = overtrained(*read(data_of(tmp_path), True))
    else:
        model = private(*read(data_of(lists), True))
    found = audits.audit(told(lists, tmp_path), model=model, progress=False).findings
    assert found.verdict.kind == "no evidence" and found.headline == GLOBAL
    assert "absence of evidence is weak" in found.verdict.found
    assert not found.blind.differs
