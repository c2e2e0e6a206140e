"""The posterior store: streamed, resumable, lazy, bounded in memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segleak_utils import attacks, data, representations
from segleak_utils.attacks import Outputs
from segleak_utils.victims import store

N_CLASSES = 4


def scenes(n: int, size: tuple[int, int] = (32, 64), seed: int = 0) -> data.Scenes:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 3, *size), dtype=np.uint8)
    masks = rng.integers(0, N_CLASSES, (n, *size), dtype=np.uint8)
    masks[:, 0, :8] = 255
    ids = [f"image {i}" for i in range(n)]
    return data.Scenes.from_arrays(images, masks, ids, list("abcd"))


def query(images: torch.Tensor) -> torch.Tensor:
    """A posterior that follows from the image: no network is needed here."""
    coarse = images[:, :, ::8, ::8]
    logits = torch.cat([coarse, coarse.sum(1, keepdim=True)], 1)
    return (4 * logits).softmax(1)


def write(folder: Path, of: data.Scenes, ask=query, **changes) -> store.Store:
    told = {"name": "net", "identity": "abc", "n_classes": N_CLASSES, "shard": 3}
    return store.write(folder, of, ask, **{**told, "progress": False, **changes})


def whole(of: data.Scenes) -> tuple[torch.Tensor, torch.Tensor]:
    images, masks = next(of.batches(len(of)))
    return query(images), masks[:, ::8, ::8]


def test_what_was_written_is_read(tmp_path):
    of = scenes(8)
    write(tmp_path / "s", of)
    kept = store.Store.open(tmp_path / "s")
    posterior, masks = whole(of)
    lazy = kept.posteriors()
    assert (kept.n, kept.shape, lazy.shape) == (8, (4, 8), (8, N_CLASSES, 4, 8))
    assert torch.equal(lazy[:], posterior.half()) and torch.equal(kept.masks(), masks.byte())
    loss = representations.structured_loss_map(posterior, masks)
    assert torch.equal(kept.losses(), loss.half())
    some = torch.tensor([7, 0, 3, 3])
    assert torch.equal(lazy[some], posterior.half()[some])
    assert torch.equal(lazy.index_select(0, some)[1:3], posterior.half()[some][1:3])
    assert torch.equal(lazy[2:5], posterior.half()[2:5])
    with pytest.raises(ValueError, match="whole images"):
        lazy.index_select(1, some)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_batches_and_workers_change_nothing(tmp_path, batch, workers):
    of = scenes(7)
    a = write(tmp_path / "a", of)
    b = write(tmp_path / "b", of, batch=batch, workers=workers)
    assert torch.equal(a.posteriors()[:], b.posteriors()[:])
    assert torch.equal(a.masks(), b.masks())


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    of, asked = scenes(8), []

    def stopped(images: torch.Tensor) -> torch.Tensor:
        asked.append(1)
        if len(asked) == 2 + 5:  # two calls are for the estimate
            raise KeyboardInterrupt
        return query(images)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "s", of, stopped)
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["00000.safetensors", "store.json"]
    with pytest.raises(FileNotFoundError, match="2 of 3 shards"):
        store.Store.open(tmp_path / "s")
    before, asked = (tmp_path / "s" / "00000.safetensors").stat().st_mtime_ns, []
    kept = write(tmp_path / "s", of, lambda images: asked.append(1) or query(images))
    assert len(asked) == 2 + 5  # images 3..7, and the estimate
    assert (tmp_path / "s" / "00000.safetensors").stat().st_mtime_ns == before
    assert torch.equal(kept.posteriors()[:], whole(of)[0].half())
    write(tmp_path / "s", of, lambda images: pytest.fail("all is there"))


def test_a_damaged_shard_is_not_read_and_is_written_again(tmp_path):
    of = scenes(8)
    write(tmp_path / "s", of)
    path = tmp_path / "s" / "00001.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileNotFoundError, match=r"1 of 3 shards .* 00001"):
        store.Store.open(tmp_path / "s")
    assert torch.equal(write(tmp_path / "s", of).posteriors()[:], whole(of)[0].half())


def spoil(path: Path, at: int = -1) -> None:
    """Turn one bit over."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("part", ["losses", "masks", "posteriors"])
@pytest.mark.parametrize("at", [-1, -1000])  # of the masks and of the posteriors
def test_a_bit_turned_over_in_a_shard_is_found_when_it_is_read_and_mended(tmp_path, part, at):
    of = scenes(8)
    kept, path = write(tmp_path / "s", of), tmp_path / "s" / "00001.safetensors"
    spoil(path, at)
    kept = store.Store.open(tmp_path / "s")
    with pytest.raises(ValueError, match=r"00001\.safetensors is not as it was .* again, it mends"):
        getattr(kept, part)()[:]
    assert len(kept.posteriors()[:3]) == 3  # the first shard is sound
    asked = []
    kept = write(tmp_path / "s", of, lambda images: asked.append(1) or query(images))
    assert len(asked) == 2 + 3  # the shard's images, and the estimate
    assert torch.equal(kept.posteriors()[:], whole(of)[0].half())


def test_shards_exchanged_are_not_taken_for_each_other(tmp_path):
    of = scenes(9)
    opened = write(tmp_path / "s", of)
    opened.posteriors()[:]
    first, second = (tmp_path / "s" / f"0000{k}.safetensors" for k in range(2))
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    with pytest.raises(FileNotFoundError, match="2 of 3 shards"):
        store.Store.open(tmp_path / "s")
    with pytest.raises(ValueError, match=r"00000\.safetensors is not as it was written"):
        opened.posteriors()[:]  # though these files have been read before
    assert torch.equal(write(tmp_path / "s", of).posteriors()[:], whole(of)[0].half())


def test_a_shard_is_checked_once_a_process(tmp_path, monkeypatch):
    write(tmp_path / "s", scenes(8))
    checked, real = [], store.checksum
    monkeypatch.setattr(store, "checksum", lambda of: checked.append(1) or real(of))
    kept = store.Store.open(tmp_path / "s")
    assert checked == []
    for _ in range(3):
        kept.posteriors()[:], kept.losses()
    assert len(checked) == 3
    write(tmp_path / "s", scenes(8), lambda images: pytest.fail("all is there"))
    assert len(checked) == 3


def test_answers_of_another_network_are_not_mixed(tmp_path):
    write(tmp_path / "s", scenes(8))
    for other in (scenes(8, seed=1), scenes(9)):
        with pytest.raises(ValueError, match="another network, or on other images"):
            write(tmp_path / "s", other)
    with pytest.raises(ValueError, match="another network"):
        write(tmp_path / "s", scenes(8), identity="abd")
    # a shard that came from elsewhere is not taken for one of these
    write(tmp_path / "t", scenes(8), identity="abd")
    shutil.copy(tmp_path / "t" / "00001.safetensors", tmp_path / "s")
    with pytest.raises(FileNotFoundError, match="1 of 3"):
        store.Store.open(tmp_path / "s")


def test_bad_folders_and_answers(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no store\.json"):
        store.Store.open(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        store.Store.open(tmp_path)
    with pytest.raises(ValueError, match=r"expected \(4, 4, 8\)"):
        write(tmp_path / "a", scenes(2), lambda images: query(images)[..., :-1])
    with pytest.raises(ValueError, match="negative"):
        write(tmp_path / "b", scenes(2), lambda images: query(images) - 0.5)
    assert not (tmp_path / "b" / "00000.safetensors").exists()


def test_it_says_beforehand_what_it_will_do_and_checks_the_disk(tmp_path, capsys, monkeypatch):
    write(tmp_path / "s", scenes(8))
    said = capsys.readouterr().out
    assert "net: 8 of 8 images" in said and "4x4x8" in said and "minutes" in said and "GB" in said
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match="will be written"):
        write(tmp_path / "t", scenes(8))
    assert store.bytes_an_image(N_CLASSES, (4, 8)) * 8 <= sum(
        p.stat().st_size for p in (tmp_path / "s").glob("*.safetensors")
    )


def test_outputs_with_lazy_posteriors_are_those_in_memory(tmp_path):
    of = scenes(12, (128, 256))
    kept = write(tmp_path / "s", of)
    member = np.arange(12) < 6
    lazy = Outputs(kept.losses(), kept.masks(), member, N_CLASSES, kept.posteriors())
    loaded = Outputs(kept.losses(), kept.masks(), member, N_CLASSES, kept.posteriors()[:])
    corners = attacks.patch_corners(5, 1, (16, 32), 8, torch.Generator().manual_seed(0))
    for chosen in (np.array([9, 1, 4, 0, 11]), np.arange(12) % 2 == 0):
        a, b = lazy.subset(chosen), loaded.subset(chosen)
        maps = (x.maps("concatenation", slice(1, 4)) for x in (a, b))
        assert torch.equal(*maps) and (a.member == b.member).all()
    a, b = (x.subset(np.array([9, 1, 4, 0, 11])).cut(corners, 8) for x in (lazy, loaded))
    assert torch.equal(a.maps("concatenation", slice(None)), b.maps("concatenation", slice(None)))
    recipe = attacks.AttackRecipe("concatenation", patch=8, epochs=2, batch=4, width=4)
    nets = [attacks.train_attacker(recipe, [x], seed=0, progress=None)[0] for x in (lazy, loaded)]
    weights = (net.state_dict().values() for net in nets)
    assert all(torch.equal(p, q) for p, q in zip(*weights, strict=True))


MEMORY = """
import resource, sys
from functools import partial
from pathlib import Path
import numpy as np, torch
from segleak_utils import attacks, data
from segleak_utils.victims import store
torch.set_num_threads(1)
root, folder, n = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
of = data.folder(root / "img", root / "lab", n_classes=19).subset(range(n))
def query(images):
    return torch.nn.functional.pad(images[:, :, ::8, ::8], (0, 0, 0, 0, 0, 16)).softmax(1)
kept = store.write(folder, of, query, name="n", identity="i", n_classes=19, shard=4, progress=False)
shown = attacks.Outputs(kept.losses(), kept.masks(), np.arange(n) % 2 == 0, 19, kept.posteriors())
for i in range(0, n, 4):
    shown.maps("concatenation", slice(i, i + 4))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_the_peak_of_memory_does_not_grow_with_the_number_of_images(tmp_path):
    for part in ("img", "lab"):
        (tmp_path / part).mkdir()
    rng = np.random.default_rng(0)
    for i in range(48):
        Image.fromarray(rng.integers(0, 255, (512, 1024, 3), np.uint8)).save(
            tmp_path / "img" / f"{i:03d}.png", compress_level=1
        )
        mask = np.full((512, 1024), i % 19, np.uint8)
        Image.fromarray(mask).save(tmp_path / "lab" / f"{i:03d}.png")

    def peak(n: int) -> float:
        """MiB of the process that writes and reads a store of n images."""
        command = [sys.executable, "-c", MEMORY, str(tmp_path), str(tmp_path / f"s{n}"), str(n)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout
                     .split()[-1])  # fmt: skip

    few, many = peak(8), peak(48)
    # 40 images more: 252 MiB as float32 images, 12 MiB as posteriors; loss maps and masks 1 MiB.
    assert many - few < 20, (few, many)
