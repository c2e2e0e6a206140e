"""Three sentences that are true whatever was found, and warnings that somebody has to read."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.special import logit
from scipy.stats import norm

from segleak_utils.audit.findings import Attack, Blind, Number, Twin, Verdict

FEW_GROUPS = 10  # below, an interval over owners is rough itself
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
    warnings: Sequence[str] = (),
) -> Verdict:
    """What was found, how sure that is, and what it does not say.

    by_image: the headline's AUC with an interval over images, where its own is over owners.
    """
    invalid = (blind is not None and blind.differs) or swapped(headline)
    kind = "invalid" if invalid else "leak" if headline.auc.low > 0.5 else "no evidence"
    return Verdict(
        kind=kind,
        found=_found(kind, name, headline, blind, n_references, n_shadows),
        sure=_sure(headline, blind),
        silent=_silent(kind, n_references, n_shadows),
        warnings=(*_warnings(headline, twins, by_image, blind), *warnings),
    )


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


def _share(value: float) -> str:
    return f"{100 * value:.0f} of 100"


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


def _sure(headline: Attack, blind: Blind | None) -> str:
    area = headline.auc
    over = "owners" if area.how.endswith("groups") else "images"
    n = f"{area.n_members} members and {area.n_nonmembers} non-members"
    if over == "owners":
        n += f" of {area.n_member_groups} and {area.n_nonmember_groups} owners"
    text = (
        f"From {n}, the {100 * area.level:.0f} % interval over {over} of that number is "
        f"{100 * area.low:.0f} to {100 * area.high:.0f}"
    )
    known = [at for at in headline.at_fpr if at.fpr <= 0.01] or list(headline.at_fpr)
    if known:
        at = known[0]
        text += (
            f", and {100 * at.tpr.value:.1f} % of the members ({100 * at.tpr.low:.1f} to "
            f"{100 * at.tpr.high:.1f} %) are found while {100 * at.fpr:g} % of the non-members are "
            "accused"
        )
    if blind is None:
        return text + "; whether the lists differ by themselves could not be tested without images."
    if blind.differs:
        return text + "; but without the model the lists are told apart, too."
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
    between = [of for of in twins if of.between_lists]
    if between:
        found.append(
            f"{len(between)} pairs of pictures that are nearly the same lie in both lists, e.g. "
            f"{between[0].first} and {between[0].second}: the model may know such a non-member by "
            "its twin, which makes the leak look smaller."
        )
    within = len(twins) - len(between)
    if within:
        found.append(
            f"{within} pairs of pictures within a list are the same or nearly so: there are fewer "
            "independent images than it seems, and intervals over images are too narrow."
        )
    area = headline.auc
    if area.how.endswith("groups") and by_image is not None:
        found.append(
            f"Intervals are over owners: images of one owner stand or fall together. Over images "
            f"the interval would be {100 * by_image.low:.0f} to {100 * by_image.high:.0f} instead "
            f"of {100 * area.low:.0f} to {100 * area.high:.0f}, as if they were independent."
        )
    fewest = min(area.n_member_groups or FEW_GROUPS, area.n_nonmember_groups or FEW_GROUPS)
    if area.how.endswith("groups") and fewest < FEW_GROUPS:
        found.append(
            f"There are only {fewest} owners of a kind; with fewer than {FEW_GROUPS} the intervals "
            "are rough themselves."
        )
    return tuple(found)
