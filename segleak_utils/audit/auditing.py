"""The audit itself: reads the lists, asks the networks, attacks, and says what was found."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segleak_utils import metrics
from segleak_utils.audit import attacking, estimates, gate, releases, risk
from segleak_utils.audit import blind as blinds
from segleak_utils.audit import twins as twinned
from segleak_utils.audit import verdict as verdicts
from segleak_utils.audit.asking import Asked
from segleak_utils.audit.attacking import Known, Scores, Shadow
from segleak_utils.audit.company import Company, company
from segleak_utils.audit.config import Audit
from segleak_utils.audit.findings import Audited, Blind, Findings, Twin
from segleak_utils.audit.looks import Looks, look
from segleak_utils.audit.pictures import listed
from segleak_utils.audit.pixels import Reader
from segleak_utils.audit.report import Exposed, write
from segleak_utils.audit.scores import read_scores
from segleak_utils.victims import processes

SHOWN = 5  # of the most exposed members, as pictures


@dataclass(frozen=True, eq=False)
class Report:
    """What an audit found: `findings`, and each attack's scores, float64 [N], higher: member."""

    findings: Findings
    scores: dict[str, NDArray[np.float64]]
    member: NDArray[np.bool_]
    out: Path
    exposed: Sequence[Exposed] = field(default=())

    @property
    def exit_code(self) -> int:
        """That of the gate: 0 passes, 3 fails, 4 undecided, 5 invalid; 0 without a limit."""
        return 0 if self.findings.gate is None else self.findings.gate.exit_code

    def write(self, out: Path | None = None) -> Path:
        """Write report.html, audit.json, tables and figures; the path of the page."""
        out = self.out if out is None else Path(out)
        return write(self.findings, self.scores, self.member, out, self.exposed)


def audit(
    told: Audit | Mapping,
    *,
    model: object | None = None,
    base: Path | str = Path(),
    progress: bool = True,
    command: str = "",
) -> Report | None:
    """Audit what `told` says: an `Audit`, or a dictionary with its keys.

    model: the network itself, a callable images float [N,3,H,W] in 0..1 -> [N,C,H,W], instead of
    one that `told` names; base: the folder that relative paths start from. What was worked out is
    kept in `told.out`/kept, and the same call goes on from there. Started by torchrun, all
    processes ask; the first gets the report, the others None. ValueError and FileNotFoundError name
    what is wrong with the input.
    """
    begun = time.monotonic()
    told = told if isinstance(told, Audit) else Audit.model_validate(told)
    base = Path(base)
    gate.checked(told.fail_above)
    blinds.place(told.relabellings, told.level)
    least = math.ceil(2 / (1 - told.level) - 1e-6)
    if told.resamples < least:
        raise ValueError(
            f"{told.resamples} resamples have no such ends as an interval of level "
            f"{told.level:g}; it needs at least {least}"
        )
    if told.answers.kind == "scores":
        return _of_scores(told, base, command, begun)
    with processes.processes():
        found = _of_answers(told, model, base, progress, command, begun)
        return found if processes.is_first() else None


def _of_answers(
    told: Audit, model: object | None, base: Path, progress: bool, command: str, begun: float
) -> Report:
    pictures = listed(told.data, base)
    member = np.array([of.member for of in pictures])
    _enough(member)
    groups = _groups([of.group for of in pictures])
    reader, kept = Reader(told.data), base / told.out / "kept"
    looks = look(pictures, reader, kept, progress="looking" if progress else None)
    ids = [of.id for of in pictures]
    twins = twinned.twins(ids, member, looks.pixels, looks.hashes)
    _refuse_twins(twins)
    with_them = company(told, model, pictures, reader, looks, base=base, progress=progress)
    known = known_of(with_them, member)
    scores = attacking.scores_of(known)
    how = {"relabellings": told.relabellings, "level": told.level, "seed": told.seed}
    blind = blinds.blind(looks.features, looks.names, member, groups, **how)
    helped = ()
    if told.releases and not known.labels_only:
        helped = releases.with_releases(
            with_them.victim.said,
            [of.said for of in with_them.references],
            [(of.own.said, [one.said for one in of.references]) for of in with_them.shadows],
            known,
            groups,
            told.level,
        )
    own = known.victim
    audited = {
        "answers": with_them.source,
        "sha256": with_them.sha256 or with_them.victim.identity,
        "n_classes": reader.n_classes,
        "n_references": len(with_them.references),
        "n_shadows": len(with_them.shadows),
        "miou_members": own.miou(True),
        "miou_nonmembers": own.miou(False),
        "grid": with_them.victim.loss_map(0).shape,
    }
    found = _findings(
        told, scores, ids, member, groups, audited, command, begun,
        blind=blind, twins=twins, releases=helped, losses=own.losses,
        warnings=(*_differ(looks, member), *with_them.warnings),
    )  # fmt: skip
    exposed = _exposed(found, with_them, reader)
    return Report(found, scores.of, member, base / told.out, exposed)


def _of_scores(told: Audit, base: Path, command: str, begun: float) -> Report:
    path = base / told.answers.scores
    scored = read_scores(path)
    _enough(scored.member)
    audited = {
        "answers": f"{'losses' if scored.are_losses else 'scores'} in {told.answers.scores}",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "n_classes": None,
        "n_references": len(scored.references),
        "n_shadows": 0,
        "miou_members": None,
        "miou_nonmembers": None,
    }
    scores = attacking.scores_brought(scored)
    losses = scored.values if scored.are_losses else None
    found = _findings(
        told, scores, scored.ids, scored.member, scored.groups, audited, command, begun,
        blind=None, twins=(), releases=(), losses=losses, warnings=(),
    )  # fmt: skip
    return Report(found, scores.of, scored.member, base / told.out)


def known_of(with_them: Company, member: NDArray[np.bool_]) -> Known:
    """What the attacks know of the answers without a release."""
    return Known(
        victim=with_them.victim.said[releases.NOTHING],
        member=member,
        references=tuple(of.said[releases.NOTHING] for of in with_them.references),
        unseen=with_them.unseen,
        shadows=tuple(
            Shadow(
                of.own.said[releases.NOTHING],
                of.member,
                tuple(one.said[releases.NOTHING] for one in of.references),
                of.unseen,
            )
            for of in with_them.shadows
        ),
        labels_only=with_them.labels_only,
    )


def _enough(member: NDArray[np.bool_]) -> None:
    m, n = int(member.sum()), int((~member).sum())
    if min(m, n) < verdicts.LEAST:
        raise ValueError(
            f"{m} members and {n} non-members are too few to decide anything: bring at least "
            f"{verdicts.LEAST} of each, better 100"
        )


def _groups(groups: Sequence[str | None]) -> tuple[str, ...] | None:
    return None if any(group is None for group in groups) else tuple(groups)


def _refuse_twins(twins: Sequence[Twin]) -> None:
    same = [of for of in twins if of.between_lists and of.kind == "same pixels"]
    if same:
        least = "at least " if len(twins) == twinned.MOST else ""
        some = "; ".join(f"{of.first} and {of.second}" for of in same[:3])
        raise ValueError(
            f"{least}{len(same)} pictures are in both lists ({some}): a picture is a member or it "
            "is not; take them out of one list"
        )


def _differ(looks: Looks, member: NDArray[np.bool_]) -> tuple[str, ...]:
    """Warnings of what is no picture, yet tells the lists apart."""
    found = []
    kinds = [sorted({f for f, m in zip(looks.formats, member, strict=True) if m == inside})
             for inside in (True, False)]  # fmt: skip
    if kinds[0] != kinds[1]:
        found.append(
            f"The members are {', '.join(kinds[0])} files and the non-members "
            f"{', '.join(kinds[1])}: pictures that were stored in different ways may differ by it."
        )
    return tuple(found)


def _findings(
    told: Audit,
    scores: Scores,
    ids: Sequence[str],
    member: NDArray[np.bool_],
    groups: Sequence[str] | None,
    audited: Mapping,
    command: str,
    begun: float,
    *,
    blind: Blind | None,
    twins: Sequence[Twin],
    releases: Sequence,
    losses: NDArray | None,
    warnings: Sequence[str],
) -> Findings:
    how = {"level": told.level, "seed": told.seed, "resamples": told.resamples}
    attacks = estimates.attacks_of(scores.of, member, groups, **how)
    headline = next(of for of in attacks if of.name == scores.headline)
    by_image = None
    if headline.auc.how.endswith("groups"):
        by_image = estimates.area(scores.of[headline.name], member, None, told.level)
    elif groups is not None:
        a, b = metrics.group_numbers(member, groups)
        warnings = (
            *warnings,
            f"The members are of {a} owners and the non-members of {b}: an interval over owners "
            "takes two of each, so these are over images, and too narrow.",
        )
    rate = told.false_discovery_rate
    found = risk.images(
        ids, member, groups, scores.of[headline.name], losses,
        scores.outside.get(headline.name), rate=rate,
    )  # fmt: skip
    swapped = verdicts.swapped(headline)
    counts = {key: audited[key] for key in ("n_references", "n_shadows")}
    return Findings(
        verdict=verdicts.verdict(
            told.name,
            headline,
            blind,
            twins,
            **counts,
            by_image=by_image,
            warnings=warnings,
            blind_tells=blind is None or blinds.can_tell(member, groups, told.level),
            n_flagged=sum(image.flagged for image in found),
        ),
        audited=Audited(
            name=told.name,
            n_members=int(member.sum()),
            n_nonmembers=int((~member).sum()),
            n_groups=None if groups is None else len(set(groups)),
            lists_sha256=_lists(ids, member, groups),
            versions=_versions(),
            command=command or "segleak_utils.audit.audit(...), told what follows",
            config=json.loads(told.model_dump_json(exclude_defaults=True))
            | {"false_discovery_rate": rate},
            seconds=time.monotonic() - begun,
            **audited,
        ),
        headline=headline.name,
        attacks=attacks,
        not_run=scores.not_run,
        blind=blind,
        twins=tuple(twins),
        releases=tuple(releases),
        gate=gate.decide(told.fail_above, headline, blind, swapped) if told.fail_above else None,
        images=found,
        groups=risk.owners(found),
    )


def _lists(ids: Sequence[str], member: NDArray, groups: Sequence[str] | None) -> str:
    rows = zip(ids, member.tolist(), groups or [None] * len(ids), strict=True)
    return hashlib.sha256(json.dumps([*rows]).encode()).hexdigest()


def _versions() -> dict[str, str]:
    names = ("segleak", "torch", "numpy", "scipy", "scikit-learn", "onnxruntime", "transformers")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _exposed(found: Findings, with_them: Company, reader: Reader) -> list[Exposed]:
    """The most exposed members, with the losses that were kept of them."""
    members = sorted(
        (image.rank, i) for i, image in enumerate(found.images) if image.member
    )[:SHOWN]  # fmt: skip
    shown = []
    for _, i in members:
        picture = with_them.victim.pictures[i]
        theirs: list[Asked] = [
            of for of, unseen in zip(with_them.references, with_them.unseen, strict=True)
            if unseen[i]
        ]  # fmt: skip
        maps = [of.loss_map(i) for of in theirs]
        own = with_them.victim.loss_map(i)
        maps = [one for one in maps if one.shape == own.shape]
        mean = np.mean(maps, 0) if maps else None
        shown.append(Exposed(found.images[i].id, reader.read(picture)[0], own, mean))
    return shown
