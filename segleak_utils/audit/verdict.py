"""Three sentences that are true whatever was found, and warnings that somebody has to read."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.special import logit
from scipy.stats import norm

from segleak_utils.audit.findings import AtFpr, Attack, Blind, Number, Twin, Verdict
from segleak_utils.audit.twins import MOST

FEW_GROUPS = 10  # below, an interval over owners is rough itself
# Below, a TPR over owners says nothing by itself: where nothing leaks and an owner's images are
# nearly alike (correlated by .9), its lower end lies above an FPR of 1 % in 18 of 100 audits of
# four to ten owners, 12 of twenty, 7 of forty; correlated by .5 in 2 to 4, over images in 2.5.
ENOUGH_GROUPS = 40
LEAST = 10  # images of a kind, below which there is no audit


def verdict(
    name: str,
    headline: Attack,
    blind: Blind | None,
    twins: Sequence[Twin],
    *,
    n_references: int,
    n_shadows: int,
    by_image: Number | None = None,
    blind_tells: bool = True,
    n_flagged: int = 0,
    warnings: Sequence[str] = (),
) -> Verdict:
    """What was found, how sure that is, and what it does not say.

    A leak is an AUC above guessing, or a TPR above its FPR (`stands_out`): either happens by chance
    in (1 - level) / 2 of the audits. by_image: the headline's AUC with an interval over images,
    where its own is over owners; blind_tells: whether there are owners enough for the blind
    baseline to see a difference (`blind.can_tell`); n_flagged: members flagged one by one.
    """
    invalid = (blind is not None and blind.differs) or swapped(headline)
    leaks = headline.auc.low > 0.5 or stands_out(headline) is not None
    kind = "invalid" if invalid else "leak" if leaks else "no evidence"
    return Verdict(
        kind=kind,
        found=_found(kind, name, headline, blind, n_references, n_shadows),
        sure=_sure(headline, blind, blind_tells),
        silent=_silent(kind, n_references, n_shadows),
        warnings=(
            *_warnings(headline, twins, by_image, blind),
            *_flagged(kind, n_flagged),
            *warnings,
        ),
    )


def stands_out(headline: Attack) -> AtFpr | None:
    """The TPR that the verdict goes by, if it is above its FPR: some members are found that way.

    At 1 % where there are 100 non-members, else at 10 %: fixed beforehand, as the attack is.
    """
    at = _told(headline)
    if at is None or at.tpr.low <= at.fpr:
        return None
    return None if _few(at.tpr, ENOUGH_GROUPS) else at


def _few(of: Number, least: int) -> bool:
    return of.how.endswith("groups") and min(of.n_member_groups, of.n_nonmember_groups) < least


def _told(headline: Attack) -> AtFpr | None:
    known = [at for at in headline.at_fpr if at.fpr <= 0.01] or list(headline.at_fpr)
    return known[0] if known else None


def swapped(headline: Attack) -> bool:
    """Whether members score *lower* than non-members, as in swapped lists.

    Beyond what happens to one audit in a thousand that finds nothing: of the intervals at 95 % two
    or three in a hundred lie below .5 by chance.
    """
    area = headline.auc
    if area.high >= 0.5 or area.value <= 0:
        return area.high < 0.5
    spread = (logit(area.high) - logit(max(area.low, 1e-9))) / 2 / norm.ppf(0.5 + area.level / 2)
    return bool(logit(area.value) < norm.ppf(1e-3) * spread)


def percent(value: float) -> str:
    """A share in percent, rounded, but never to the 0, 50 or 100 that it is not.

    >>> percent(0.623), percent(0.5004), percent(0.9996), percent(1.0)
    ('62', '50.04', '99.96', '100')
    """
    text = ""
    for digits in range(4):
        text = f"{100 * value:.{digits}f}"
        if float(text) not in (0, 50, 100) or value in (0, 0.5, 1):
            break
    return text


def _share(value: float) -> str:
    return f"{percent(value)} of 100"


def _found(
    kind: str, name: str, headline: Attack, blind: Blind | None, n_references: int, n_shadows: int
) -> str:
    area = headline.auc
    pairs = f"{_share(area.value)} pairs of a member and a non-member"
    if kind == "invalid" and swapped(headline):
        return (
            f"The members look less like training images of {name} than the non-members do: in "
            f"{pairs} the member scores higher, where guessing gives 50; the two lists may be "
            "swapped, and until that is settled this audit says nothing."
        )
    if kind == "invalid":
        return (
            "The two lists can be told apart without asking the model at all (most by the "
            f"{blind.most_telling}), so whatever the attacks find may be that difference and not a "
            "leak: this audit says nothing until both lists are drawn alike."
        )
    if kind == "leak" and area.low <= 0.5:
        at = stands_out(headline)
        return (
            f"{name} gives away some of the images it was trained on: the attack by "
            f"{headline.name} finds {_share(at.tpr.value)} members while it accuses "
            f"{100 * at.fpr:g} of 100 non-members, though over all images it puts the member first "
            f"in {pairs}, where guessing gives 50."
        )
    if kind == "leak":
        return (
            f"{name} gives away which images it was trained on: the attack by {headline.name} puts "
            f"the member first in {pairs}, where guessing gives 50."
        )
    weak = ""
    if not n_references and not n_shadows:
        weak = (
            ", and this absence of evidence is weak, since there was no other network to compare "
            "with"
        )
    return (
        f"No evidence was found that {name} gives away which images it was trained on{weak}: the "
        f"attack by {headline.name} puts the member first in {pairs}, where guessing gives 50."
    )


def _sure(headline: Attack, blind: Blind | None, blind_tells: bool) -> str:
    area = headline.auc
    over = "owners" if area.how.endswith("groups") else "images"
    n = f"{area.n_members} members and {area.n_nonmembers} non-members"
    if over == "owners":
        n += f" of {area.n_member_groups} and {area.n_nonmember_groups} owners"
    text = (
        f"From {n}, the {100 * area.level:.0f} % interval over {over} of that number of "
        f"pairs is {percent(area.low)} to {percent(area.high)}"
    )
    at = _told(headline)
    if at is not None:
        text += (
            f", and {100 * at.tpr.value:.1f} % of the members ({100 * at.tpr.low:.1f} to "
            f"{100 * at.tpr.high:.1f} %) are found while {100 * at.fpr:g} % of the non-members are "
            "accused"
        )
    if blind is None:
        return text + "; whether the lists differ by themselves could not be tested without images."
    if blind.differs:
        return text + "; but without the model the lists are told apart, too."
    if not blind_tells:
        return text + "; there are too few owners to test whether the lists differ by themselves."
    return text + "; without the model the lists could not be told apart."


def _silent(kind: str, n_references: int, n_shadows: int) -> str:
    if kind == "invalid":
        return "It does not say that there is a leak, nor that there is none."
    more = (
        "by attackers with networks of their own" if not n_references
        else "by attackers with more, or better, networks of their own"
    )  # fmt: skip
    if kind == "leak":
        return (
            f"It does not say that no more can be found, {more}, nor that other images leak as "
            "much."
        )
    return (
        f"It does not say that nothing can be found, {more}, with more images, or about a few "
        "images that stand out."
    )


def _warnings(
    headline: Attack, twins: Sequence[Twin], by_image: Number | None, blind: Blind | None
) -> tuple[str, ...]:
    found = []
    if blind is not None and blind.auc.high < 0.5:
        found.append(
            f"The blind baseline lies below .5 ({blind.auc.value:.2f}), as chance does to two or "
            "three audits in a hundred and images that depend on one another (a video's frames, "
            "a patient's slices) to many more: then intervals are too narrow. Give owners, or "
            "larger ones."
        )
    n_between = sum(of.between_lists for of in twins)  # they are listed first
    n_within = len(twins) - n_between
    least = "At least " if len(twins) >= MOST else ""
    if n_between:
        found.append(
            f"{'' if n_within else least}{n_between} pairs of pictures that are nearly the same "
            f"lie in both lists, e.g. {twins[0].first} and {twins[0].second}: the model may know "
            "such a non-member by its twin, which makes the leak look smaller."
        )
    if n_within:
        found.append(
            f"{least}{n_within} pairs of pictures within a list are the same or nearly so: there "
            "are fewer independent images than it seems, and intervals over images are too narrow."
        )
    area = headline.auc
    if area.how.endswith("groups") and by_image is not None:
        found.append(
            f"Intervals are over owners: images of one owner stand or fall together. Over images "
            f"the interval would be {percent(by_image.low)} to {percent(by_image.high)} instead "
            f"of {percent(area.low)} to {percent(area.high)}, as if they were independent."
        )
    at = _told(headline)
    if at is not None and at.tpr.low > at.fpr and _few(at.tpr, ENOUGH_GROUPS):
        found.append(
            f"More members than non-members are found at {100 * at.fpr:g} %, but of fewer than "
            f"{ENOUGH_GROUPS} owners of a kind that alone is no evidence: where an owner's images "
            "are much alike it happens by chance in up to 20 of 100 audits."
        )
    if _few(area, FEW_GROUPS):
        fewest = min(area.n_member_groups, area.n_nonmember_groups)
        found.append(
            f"There are only {fewest} owners of a kind; with fewer than {FEW_GROUPS} the intervals "
            "are rough themselves."
        )
    return tuple(found)


def _flagged(kind: str, n_flagged: int) -> tuple[str, ...]:
    if kind != "no evidence" or not n_flagged:
        return ()
    return (
        f"{n_flagged} members are flagged one by one, although nothing was found over all: look at "
        "them. Where nothing leaks and images are independent, any is flagged in no more audits "
        "than the false-discovery rate.",
    )
