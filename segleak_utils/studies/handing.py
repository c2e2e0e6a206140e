"""The default victim handed to an auditor: folders of pictures, networks by name, an audit.yml.

What `audit` then sees is what it would see of anybody's model.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from segleak_utils.data import Scenes
from segleak_utils.studies import experiment
from segleak_utils.studies.plan import ROOT, Plan
from segleak_utils.studies.shelf import manifest, shipped
from segleak_utils.victims import load_victim
from segleak_utils.whole import write_whole

FILE = """\
# yaml-language-server: $schema={schema}
name: SynthStreets, victim {seed}
data:
  members: {{images: victim/members/images, masks: victim/members/masks}}
  nonmembers: {{images: victim/nonmembers/images, masks: victim/nonmembers/masks}}
  classes: [{classes}]
  void: [255]
  grid: {grid}
answers:
  model: segleak_utils.studies.handing:victim_{seed}
  returns: logits
  device: cpu
references:
{references}
fail_above: {{auc: 0.60}}
out: {out}
"""
REFERENCE = """\
  - model: segleak_utils.studies.handing:shadow_{k}
    returns: logits
    device: cpu
    shadow:
      members: {{images: shadow-{k}/members/images, masks: shadow-{k}/members/masks}}
      nonmembers: {{images: shadow-{k}/nonmembers/images, masks: shadow-{k}/nonmembers/masks}}
"""


def victim_0() -> nn.Module:
    """The shipped victim of seed 0."""
    return _shipped("victim-0")


def victim_1() -> nn.Module:
    """The shipped victim of seed 1."""
    return _shipped("victim-1")


def shadow_0() -> nn.Module:
    """The first of the attacker's networks of the victim's city."""
    return _shipped("shadow-dependent-0")


def shadow_1() -> nn.Module:
    """The second of them."""
    return _shipped("shadow-dependent-1")


def _shipped(name: str) -> nn.Module:
    folder = Plan().weights
    path = shipped(folder, name)
    if path is None:
        raise FileNotFoundError(f"{name} is not in {folder}; `weights {name}` trains it")
    return load_victim(path, manifest(folder)[name]["sha256"])[0]


def hand_over(
    plan: Plan,
    folder: Path,
    *,
    victim_seed: int = 0,
    n_members: int = 150,
    n_nonmembers: int = 300,
    n_references: int = 2,
    grid: int = 64 * 128,
) -> Path:
    """Write the victim's two lists, those of its references, and audit.yml; the path of that.

    Images and masks as PNG, as many of each list as are asked for; what is there already stays.
    """
    lists = {"victim": f"victim-{victim_seed}"}
    lists |= {f"shadow-{k}": f"shadow-dependent-{k}" for k in range(n_references)}
    for name, network in lists.items():
        members, nonmembers, _ = experiment.roles(plan, network)
        fewer = 2 * n_members // 3  # enough to learn a regression from
        wanted = (n_members, n_nonmembers) if name == "victim" else (fewer, fewer)
        for part, scenes, n in zip(
            ("members", "nonmembers"), (members, nonmembers), wanted, strict=True
        ):
            write_pictures(scenes.subset(range(min(n, len(scenes)))), folder / name / part)
    text = FILE.format(
        schema=ROOT / "segleak_utils" / "audit" / "schemas" / "audit-yml.json",
        seed=victim_seed,
        classes=", ".join(members.class_names),
        grid=grid,
        references="".join(REFERENCE.format(k=k) for k in range(n_references)).rstrip("\n"),
        out="audit",
    )
    write_whole(folder / "audit.yml", text)
    return folder / "audit.yml"


def write_pictures(scenes: Scenes, folder: Path) -> None:
    """Scenes as PNG files, images/ID.png and masks/ID.png; a list of other scenes is replaced."""
    names = [name.replace("/", "-") for name in scenes.ids]
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for path in set((folder / kind).glob("*.png")) - {
            folder / kind / f"{n}.png" for n in names
        }:
            path.unlink()
    for i, name in enumerate(names):
        paths = [folder / kind / f"{name}.png" for kind in ("images", "masks")]
        if all(path.exists() for path in paths):
            continue
        image, mask = scenes[i]
        pixels = np.ascontiguousarray((255 * image).round().byte().permute(1, 2, 0).numpy())
        for path, array in zip(paths, (pixels, mask.byte().numpy()), strict=True):
            part = path.with_suffix(".part")
            Image.fromarray(array).save(part, "PNG", compress_level=1)
            part.replace(path)
