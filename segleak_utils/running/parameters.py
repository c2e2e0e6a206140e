"""The parameters of the notebooks: typed, bounded, and with a clear error for anything else.

Each notebook calls, right after its cell tagged ``parameters``::

    p = parameters.check("01_victim_inference", preset=preset, seed=seed, …)
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)


def _integer(low: int, high: int) -> object:
    # strict: "3", 3.0 and True are mistakes here, not the number 3 or 1
    return Annotated[int, Field(ge=low, le=high, strict=True)]


VictimSeed = _integer(0, 1)
PATHS = ("data_root", "examples", "attackers", "config")  # the parameters that are paths
# resolved, so that a run says where they lead to; any place is allowed
Resolved = Annotated[Path, AfterValidator(Path.resolve)]
# "" in a notebook's cell: none
Folder = Annotated[Resolved | None, BeforeValidator(lambda value: None if value == "" else value)]
Setting = Literal["dependent", "independent"]
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def _for_scenes(folder: Path) -> Path:
    """ValueError for a folder of pictures: scenes would be drawn beside them, and these ignored."""
    for pattern in ("*", "*/*"):
        found = [path for path in folder.glob(pattern) if path.suffix.lower() in PICTURES]
        if found:
            raise ValueError(
                f"{min(found)} is a picture: data_root is where SynthStreets' scenes are kept, and "
                "pictures there are not looked at; for your own images and model there is the "
                "command `audit`"
            )
    return folder


SceneFolder = Annotated[Resolved, AfterValidator(_for_scenes)]


class Common(BaseModel):
    """What every notebook has. ``data_root`` is seen from notebooks/, where notebooks run; it may
    lead anywhere, and is resolved."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
    preset: Literal["quick", "full"] = "quick"
    seed: _integer(0, 2**32 - 1) = 0
    data_root: SceneFolder = Path("../data")


class OnExamples(Common):
    """What the notebooks have that also run on the paper's example folder: ``examples`` is that
    folder, ``attackers`` one with ``loss.pth.tar``, ``concate.pth.tar`` or both, of networks that
    are ``dilated`` or not. Seen from notebooks/, like ``data_root``; "" for none."""

    examples: Folder = None
    attackers: Folder = None
    dilated: Annotated[bool, Field(strict=True)] = False


class StartHere(Common):
    """00_start_here"""

    victim_seed: VictimSeed = 0


class VictimInference(Common):
    """01_victim_inference; ``example`` is the member that is looked at, ``n_images`` are scored
    of each group."""

    victim_seed: VictimSeed = 0
    example: _integer(0, 399) = 0
    n_images: _integer(20, 2000) = 400


class StructuredLossMap(OnExamples):
    """02_structured_loss_map; ``example`` is the member that is looked at."""

    victim_seed: VictimSeed = 0
    example: _integer(0, 399) = 0


class AttackTraining(OnExamples):
    """03_attack_training; ``patch`` is the side in pixels, ``live_images`` are the members, and as
    many non-members, of the shadow that the live training learns from."""

    setting: Setting = "dependent"
    patch: _integer(16, 128) = 90
    n_patches: _integer(1, 64) = 6
    max_patches: _integer(1, 64) = 16
    epochs: _integer(1, 50) = 6
    live_images: _integer(20, 400) = 200


class Defenses(OnExamples):
    """04_defenses; ``n_nonmembers`` are attacked beside all 400 members (of the examples: all)."""

    n_nonmembers: _integer(100, 5000) = 400
    n_patches: _integer(1, 64) = 6


class RocAnalysis(OnExamples):
    """05_roc_analysis"""

    victim_seed: VictimSeed = 0
    setting: Setting = "dependent"
    n_patches: _integer(1, 64) = 6
    n_boot: _integer(200, 20_000) = 2000


class BeyondThePaper(Common):
    """06_beyond_the_paper; ``n_networks`` are those that the attacker has trained."""

    victim_seed: _integer(0, 2) = 0
    n_networks: _integer(1, 8) = 2
    n_boot: _integer(200, 20_000) = 2000


class WhoIsAtRisk(Common):
    """07_who_is_at_risk; ``n_networks`` are those of the attacker who never saw the images."""

    victim_seed: _integer(0, 2) = 0
    n_networks: _integer(1, 8) = 2


class WhatDPPromises(Common):
    """08_what_dp_promises; ``n_nonmembers`` are attacked beside all 400 members, ``n_canaries`` are
    in the live audit."""

    n_nonmembers: _integer(100, 5000) = 400
    n_canaries: _integer(100, 10_000) = 1000


class AuditYourModel(Common):
    """09_audit_your_model; ``n_members`` of the default victim are audited beside twice as many
    non-members. ``config`` is an audit.yml of your own instead, seen from notebooks/."""

    victim_seed: VictimSeed = 0
    n_members: _integer(60, 400) = 150
    config: Folder = None


MODELS: dict[str, type[Common]] = {
    "00_start_here": StartHere,
    "01_victim_inference": VictimInference,
    "02_structured_loss_map": StructuredLossMap,
    "03_attack_training": AttackTraining,
    "04_defenses": Defenses,
    "05_roc_analysis": RocAnalysis,
    "06_beyond_the_paper": BeyondThePaper,
    "07_who_is_at_risk": WhoIsAtRisk,
    "08_what_dp_promises": WhatDPPromises,
    "09_audit_your_model": AuditYourModel,
}


def suggestion(name: str, known: list[str]) -> str:
    """Return `` (did you mean …?)`` if a known name is close to `name`, else an empty string."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _explain(problem: dict, known: list[str]) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown parameter {name}{suggestion(name, known)}"
    expected = problem["msg"].removeprefix("Input should be ")
    return f"parameter {name} is {problem['input']!r}, expected {expected}"


def check(notebook: str, **values: object) -> Common:
    """Return the validated parameters of a notebook, as a frozen object.

    Raises ValueError naming each wrong parameter, what was found, what is expected and, for an
    unknown name, the known ones.
    """
    if notebook not in MODELS:
        raise ValueError(
            f"unknown notebook {notebook!r}{suggestion(notebook, list(MODELS))}; "
            f"known: {', '.join(MODELS)}"
        )
    model = MODELS[notebook]
    known = list(model.model_fields)
    try:
        return model(**values)
    except ValidationError as error:
        problems = "; ".join(_explain(problem, known) for problem in error.errors())
    raise ValueError(f"{notebook}: {problems}. Known parameters: {', '.join(known)}")
