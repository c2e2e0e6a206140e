"""What classifies a patch as member or non-member: the laptop's network and the paper's.

Both take a representation [N,K,h,w] of patches and give logits [N,2] (non-member, member).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Representation = Literal["loss map", "loss map + label", "concatenation", "calibrated loss map"]
# Those that need the victim alone; the calibrated one also needs references.
REPRESENTATIONS: tuple[Representation, ...] = ("loss map", "loss map + label", "concatenation")
CALIBRATED_MAP: Representation = "calibrated loss map"


def channels(representation: Representation, n_classes: int) -> int:
    """Number of channels K of a representation.

    >>> channels("loss map + label", 19), channels("concatenation", 19)
    (20, 38)
    """
    counts = {"loss map": 1, "loss map + label": 1 + n_classes, "concatenation": 2 * n_classes}
    counts[CALIBRATED_MAP] = 2 + n_classes
    if representation not in counts:
        raise ValueError(f"unknown representation {representation!r}; known: {', '.join(counts)}")
    return counts[representation]


class PatchNet(nn.Module):
    """The laptop's patch classifier: [N,K,h,w] → logits [N,2] (non-member, member).

    A small residual network with the loss in three transforms (raw, log1p, its tail) and with the
    label gating it: a loss of 1 means something else on a pole than on a road. Evidence is pooled
    by the mean, so a patch of any size can be scored.
    """

    def __init__(self, representation: Representation, n_classes: int, width: int = 16) -> None:
        super().__init__()
        self.representation, self.n_classes, self.width = representation, n_classes, width
        self.channels = channels(representation, n_classes)
        n_seen = {"concatenation": n_classes + 3, CALIBRATED_MAP: 6}.get(representation, 3)
        n_gate = 1 if representation == "loss map" else n_classes + 1
        self.see = nn.Conv2d(n_seen, width, 1)
        self.gate = nn.Conv2d(n_gate, width, 1)
        self.body = nn.Sequential(
            _Halved(),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 3, 2, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(3 * width, 2)

    def features(self, maps: Tensor) -> tuple[list[Tensor], Tensor]:
        """The channels that `see` takes, in parts, and the label [N,C,H,W]; loss map: C is 0."""
        if self.representation == "concatenation":
            posterior, label = maps.split(self.n_classes, 1)
            true = (posterior * label).sum(1, keepdim=True)
            loss = -true.clamp_min(1e-8).log() * label.amax(1, keepdim=True)
            return [posterior, *_transforms(loss)], label
        if self.representation == CALIBRATED_MAP:
            loss, calibrated, label = maps.split([1, 1, self.n_classes], 1)
            theirs = (loss - calibrated).relu()
            both = _log1p(loss) - _log1p(theirs)
            seen = [calibrated / 2, both, (calibrated.abs() - 2).relu() / 4]
            return [*seen, *_transforms(loss)], label
        return _transforms(maps[:, :1]), maps[:, 1:]

    def local(self, maps: Tensor) -> Tensor:
        """What is seen in each pixel alone: [N,K,H,W] → [N,width,H,W]."""
        seen, label = self.features(maps)
        gate = self.gate.weight.flatten(1)
        # the last weight is that of a channel of ones: a bias, without making the channel
        always = gate[:, -1] + self.gate.bias
        looked = _each_pixel(torch.cat(seen, 1), self.see.weight.flatten(1), self.see.bias)
        gates = _each_pixel(label, gate[:, :-1], always)
        # in place where nobody learns: new memory costs more than the product
        return looked * gates if torch.is_grad_enabled() else looked.mul_(gates)

    def forward(self, maps: Tensor) -> Tensor:
        return self.judge(self.local(maps))

    def judge(self, local: Tensor) -> Tensor:
        """From patches of `local` to logits [N,2]."""
        deep = self.body(local)
        pooled = torch.cat([local.mean((2, 3)), deep.mean((2, 3))], 1)
        return self.head(pooled)


class _Halved(nn.Module):
    """`nn.AvgPool2d(2)` as a convolution: the same bits, and on a CPU in half the time."""

    def forward(self, maps: Tensor) -> Tensor:
        n = maps.shape[1]
        return F.conv2d(maps, maps.new_full((n, 1, 2, 2), 0.25), stride=2, groups=n)


def _transforms(loss: Tensor) -> list[Tensor]:
    return [loss / 2, _log1p(loss), (loss - 2).relu() / 4]


def _log1p(loss: Tensor) -> Tensor:
    """log(1 + loss) to 1e-7; torch.log1p takes ten times as long on a CPU."""
    return (1 + loss).log()


def _each_pixel(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution of 1x1: channels last whatever the maps are, without turning them first."""
    rows = F.linear(maps.flatten(2).transpose(1, 2), weight, bias)
    return rows.unflatten(1, maps.shape[2:]).permute(0, 3, 1, 2)


def deep_stem_resnet50(n_channels: int, n_classes: int = 2, *, dilated: bool = False) -> nn.Module:
    """The paper's patch classifier: ResNet-50 with a deep stem, [N,K,h,w] → logits [N,2].

    The published networks keep a map of 1/8 of the patch to the end: `dilated` or not, layer3 and
    layer4 take no stride; dilated, their kernels are spread by 2 and 4 instead. Keys and shapes of
    the weights are the same for both, and for the ordinary network of total stride 32.
    """
    import timm  # not in the core: only the published networks need it

    net = timm.create_model(
        "resnet50",
        in_chans=n_channels,
        num_classes=n_classes,
        stem_type="deep",
        stem_width=64,
        output_stride=8 if dilated else 32,
    )
    for layer in () if dilated else (net.layer3, net.layer4):
        for conv in (layer[0].conv2, layer[0].downsample[0]):
            conv.stride = (1, 1)
    return net


def load_public_attacker(path: Path | str, dilated: bool = False) -> nn.Module:
    """A deep-stem ResNet-50 from a ``.pth.tar`` of the public layout ``{'state_dict': …}``.

    1 input channel: loss map; 38: concatenation (19 classes). A ``module.`` prefix is removed. No
    file says whether its network is `dilated`: the wrong answer loads too, and its scores mean
    nothing. Raises FileNotFoundError, or ValueError for a damaged file, foreign or missing keys, or
    other channels.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no attacker at {path}")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types here; each means an unusable file
        raise ValueError(f"{path} is not a checkpoint torch can load safely: {error}") from error
    if not isinstance(saved, dict) or not isinstance(saved.get("state_dict"), dict):
        raise ValueError(f"{path} holds no 'state_dict'; expected the layout {{'state_dict': …}}")
    state = {key.removeprefix("module."): value for key, value in saved["state_dict"].items()}
    first = state.get("conv1.0.weight")
    if first is None or first.ndim != 4 or first.shape[1] not in (1, 38):
        found = "no deep stem" if first is None else f"a first layer of shape {tuple(first.shape)}"
        raise ValueError(f"{path} has {found}; expected conv1.0.weight with 1 or 38 channels")
    n_classes = len(state["fc.weight"]) if "fc.weight" in state else 2
    if n_classes != 2:
        raise ValueError(f"{path} has {n_classes} outputs; expected 2 (non-member, member)")
    net = deep_stem_resnet50(first.shape[1], dilated=dilated)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} is not a deep-stem ResNet-50: {error}") from error
    return net.eval()


def mixed_logits(net: nn.Module, patches: Tensor) -> Tensor:
    """Logits [N,2] of a ResNet-50 with its convolutions in bf16, its head not, or they tie."""
    with torch.autocast(patches.device.type, torch.bfloat16):
        features = net.forward_features(patches)
    return net.forward_head(features.float())


def dense_logits(net: nn.Module, maps: Tensor, patch: int, *, mixed: bool = False) -> Tensor:
    """Logits [N,rows,columns,2] of every window of `patch` pixels, 8 apart, in one pass over maps.

    Both networks pool what they see by the mean and judge that mean, so the windows' means of one
    map of features are all that is needed.
    """
    with torch.autocast(maps.device.type, torch.bfloat16, enabled=mixed):
        local = net.local(maps) if isinstance(net, PatchNet) else None
        deep = net.forward_features(maps) if local is None else net.body(local)
    cells = -(-patch // 8) if local is None else -(-(patch // 2) // 4)
    seen = [F.avg_pool2d(deep.float(), cells, 1)]
    if local is not None:
        seen.insert(0, F.avg_pool2d(local.float(), patch, 8))
    rows, columns = (min(part.shape[side] for part in seen) for side in (2, 3))
    pooled = torch.cat([part[:, :, :rows, :columns] for part in seen], 1)
    return (net.fc if local is None else net.head)(pooled.permute(0, 2, 3, 1))
