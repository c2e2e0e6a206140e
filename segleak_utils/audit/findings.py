"""What an audit found, as `audit.json` has it: numbers with their intervals, and no prose but the
verdict's. The schema is versioned and shipped (`schemas/audit-1.json`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

VERSION = 1  # of the schema: raise it when a field changes its meaning or goes
FPRS = (0.1, 0.01, 0.001)
PRIORS = (0.5, 0.1, 0.01)

How = Literal[
    "DeLong over images", "binomial mixture over images", "bootstrap over images",
    "DeLong over groups", "binomial mixture over groups", "bootstrap over groups", "relabelling",
]  # fmt: skip


class _Found(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Number(_Found):
    """An estimate with its interval; `how` says what the interval covers."""

    value: float
    low: float
    high: float
    level: float
    n_members: int
    n_nonmembers: int
    how: How
    n_member_groups: int | None = None
    n_nonmember_groups: int | None = None


class AtFpr(_Found):
    """TPR where at most a share `fpr` of the non-members is accused, and what an accusation is
    worth: the precision, by the share of members among those asked about (`PRIORS`)."""

    fpr: float
    tpr: Number
    precision: dict[str, float] = Field(description='by prior, "0.5", "0.1", "0.01"')


class Attack(_Found):
    name: str
    seen: str = Field(description="what it looks at")
    needs: Literal["nothing", "references", "shadows"]
    auc: Number
    at_fpr: tuple[AtFpr, ...] = Field(description="those FPRs that the non-members can show")


class NotRun(_Found):
    name: str
    needs: str = Field(description="a sentence: what it would take")


class Blind(_Found):
    """The blind baseline: members told from non-members without any model."""

    auc: Number
    p_value: float = Field(description="share of relabellings with as high an AUC")
    relabellings: int
    looks: tuple[str, ...] = Field(description="names of what it looks at")
    most_telling: str = Field(description="the look that differs most between the lists")
    differs: bool = Field(description="whether the interval lies above .5")


class Twin(_Found):
    """One picture, or nearly, in both lists (or twice in one)."""

    first: str
    second: str
    between_lists: bool
    kind: Literal["same pixels", "nearly the same"]
    distance: int = Field(description="bits by which the perceptual hashes differ")


class Image(_Found):
    id: str
    member: bool
    group: str | None
    score: float = Field(description="of the headline attack; higher: more likely a member")
    rank: int = Field(description="1: most exposed of all")
    p_value: float = Field(description="share of non-members with as high a score")
    p_shadows: float | None = Field(None, description="the same of the shadows' non-members")
    flagged: bool = Field(description="a member found at the false-discovery rate")
    loss: float | None = None


class Group(_Found):
    group: str
    n_members: int
    n_nonmembers: int
    n_flagged: int
    exposure: float | None = Field(
        description="mean share of non-members below its members' scores; .5: as a non-member"
    )
    p_value: float | None = Field(description="combined over its members (Simes)")


class Release(_Found):
    """What the audited answers would leak, and be worth, if less of them was released."""

    release: str
    attacker: Literal["naive", "adaptive"]
    attack: str
    auc: Number
    miou_members: float | None
    miou_nonmembers: float | None


class Limit(_Found):
    measure: str
    limit: float
    number: Number | None
    decision: Literal["passes", "fails", "undecided", "invalid"]
    why: str


class Gate(_Found):
    limits: tuple[Limit, ...]
    exit_code: int


class Verdict(_Found):
    kind: Literal["leak", "no evidence", "invalid"]
    found: str = Field(description="first sentence: what was found")
    sure: str = Field(description="second: how sure that is")
    silent: str = Field(description="third: what it does not say")
    warnings: tuple[str, ...] = ()


class Audited(_Found):
    """What was audited, so that anybody can repeat it."""

    name: str
    answers: str = Field(description="kind and where from")
    sha256: str | None = Field(description="of the file, or key of the weights or answers")
    n_members: int
    n_nonmembers: int
    n_groups: int | None
    n_classes: int | None
    lists_sha256: str = Field(description="of ids, labels and groups")
    n_references: int
    n_shadows: int
    miou_members: float | None
    miou_nonmembers: float | None
    grid: tuple[int, int] | None = Field(None, description="of the first image's kept losses")
    versions: dict[str, str]
    command: str
    config: dict
    seconds: float


class Findings(_Found):
    version: int = VERSION
    verdict: Verdict
    audited: Audited
    headline: str = Field(description="name of the attack that verdict, gate and risk go by")
    attacks: tuple[Attack, ...]
    not_run: tuple[NotRun, ...]
    blind: Blind | None
    twins: tuple[Twin, ...]
    releases: tuple[Release, ...]
    gate: Gate | None
    images: tuple[Image, ...]
    groups: tuple[Group, ...]
