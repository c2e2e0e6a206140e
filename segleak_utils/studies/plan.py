"""The plan of the default experiment: sizes, recipes, and where things are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from segleak_utils.attacks import AttackRecipe
from segleak_utils.running import results
from segleak_utils.victims import Recipe

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "weights"
SHADOW_SEEDS = (0, 1)
# Further networks of the city for notebook 06, and the seed of each one's training.
FURTHER = {
    **{f"victim-{k}": 9 + k for k in (2, 3, 4, 5)},
    **{f"shadow-dependent-{k}": 20 + k for k in range(2, 8)},
}
# Of these the ones that are not shipped: trained into ``build/weights`` by whoever asks for them.
UNSHIPPED = ("victim-3", "victim-4", "victim-5")


@dataclass(frozen=True)
class Sizes:
    """How many scenes each role has."""

    n_members: int = 400
    n_nonmembers: int = 2000
    n_shadow_nonmembers: int = 400
    n_held_out: int = 100


@dataclass(frozen=True)
class Plan:
    """Everything the default experiment is made of; tests run a miniature of it.

    `weights` is where networks and attackers are looked for and stored, `data_root` where scenes
    are cached, `build` where everything else goes. `further`: those of `FURTHER` that are shipped,
    as int8. With `examples`, the paper's folder, the victims
    are the recorded ones; `attackers` is a folder of published ones, to be scored beside ours.
    """

    sizes: Sizes = field(default_factory=Sizes)
    recipe: Recipe = field(default_factory=Recipe)
    attack: AttackRecipe = field(default_factory=AttackRecipe)
    shadow_seeds: tuple[int, ...] = SHADOW_SEEDS
    further: tuple[str, ...] = tuple(name for name in FURTHER if name not in UNSHIPPED)
    weights: Path = WEIGHTS
    data_root: Path = ROOT / "data"
    examples: Path | None = None
    attackers: Path | None = None
    dilated: bool = False
    progress: bool = True

    @property
    def build(self) -> Path:
        return results.build_folder()
