"""What an audit was told, and what it found, as sentences of Markdown for a notebook.

Each is true whatever was told and found: where a thing is not there it says so, and why.
"""

from __future__ import annotations

import re
import shlex

import numpy as np

from segleak_utils.audit import blind as blinds
from segleak_utils.audit.attacking import ORDER
from segleak_utils.audit.config import Audit
from segleak_utils.audit.findings import Attack, Audited, Findings, Release
from segleak_utils.audit.report import Exposed, as_text, short
from segleak_utils.audit.risk import fewest_flagged
from segleak_utils.audit.twins import MOST

EXAMPLE = "--fail-above auc=0.60"  # where audit.yml sets no limit
SMALL = 0.05  # a p-value that is called small
LIST = "- **members** and **nonmembers** are the two lists (notebook 0)."
ALIKE = "They should differ in nothing but membership."
NAMES = {
    "model": "which network, and what it returns",
    "file": "which file holds the network, and what that returns",
    "posteriors": "in which folder its posteriors lie, and what they are",
}


def plain(text: str) -> str:
    r"""A name as Markdown that shows it as it is, in one line.

    >>> print(plain("net_*<b>"))
    net\_\*\<b\>
    """
    return re.sub(r"([\\`*_\[\]<>#|$~])", r"\\\1", " ".join(text.split()))


def many(n: int, one: str, more: str = "") -> str:
    """A number with its noun.

    >>> many(1, "reference"), many(2, "reference"), many(0, "reference")
    ('1 reference', '2 references', 'no reference')
    """
    return f"{n or 'no'} {one if n < 2 else more or one + 's'}"


# ---------------------------------------------------------------------------- what it was told


def told_of(told: Audit) -> str:
    """A line for each key that matters: what it means, or what it means that it is not there."""
    lines = _answers(told) if told.answers.kind == "scores" else _lists(told) + _answers(told)
    lines += _references(told)
    if not told.releases:
        lines.append("- **releases** is off: what would help is not tried.")
    limits = ", ".join(f"{name} {limit:g}" for name, limit in told.fail_above.items())
    given = f"sets a limit ({limits})" if limits else "could be given: a limit"
    lines.append(f"- **fail_above** {given} for a machine to watch over. We come to it at the end.")
    return "\n".join(lines)


def _lists(told: Audit) -> list[str]:
    lines = [f"{LIST} {ALIKE}"]
    if told.data.manifest is not None:
        lines = [
            "- **manifest** is a table with the two lists, members and non-members (notebook 0): "
            f"each image, its mask, and whether the model was trained on it. {ALIKE}"
        ]
    if told.data.groups is not None:
        lines.append(
            "- **groups** says whose an image is, by its name: images of one owner stand or fall "
            "together."
        )
    return lines


def _answers(told: Audit) -> list[str]:
    kind = told.answers.kind
    if kind == "scores":
        return [
            "- **scores** is a table, a row for each image: whether it is a member (notebook 0), "
            "and one number, its loss or a score. No network is asked, no picture is looked at. "
            f"The two lists are in it, too. {ALIKE}"
        ]
    if kind == "labels":
        return [
            "- **answers** says in which folder the predicted label maps lie. There are no "
            "probabilities in them, so attacks see nothing but errors."
        ]
    if kind is None:
        return ["- **answers** names no network and no file: there is nothing to audit yet."]
    return [
        f"- **answers** says {NAMES[kind]}. That is *said*, then checked: logits that turn out to "
        "be probabilities are refused."
    ]


def _references(told: Audit) -> list[str]:
    what = (
        "networks that were not trained on these images: witnesses of how hard an image is "
        "(notebook 6)"
    )
    if told.answers.kind == "scores":
        ignored = bool(told.references or told.train_references)
        return [
            f"- **references** are {what}. Those of a table are its columns `reference_1`, …"
            f"{'; the ones named here are not asked.' if ignored else '.'}"
        ]
    lines = []
    if told.references:
        n = sum(of.shadow is not None for of in told.references)
        line = f"- **references** are {what}."
        if any(of.trained_on is not None for of in told.references):
            line += " For images that `trained_on` names such a network is no witness."
        if n:
            line += (
                f" Those with two lists of their own ({n} of {len(told.references)}) are "
                "**shadows**, too: attacks can learn from them (notebook 3)."
            )
        lines.append(line)
    if told.train_references is not None:
        lines.append(
            f"- **train_references**: {many(told.train_references.count, 'reference')} trained "
            f"here, on other images. References are {what}; from those that are trained here "
            "attacks can learn, too (**shadows**, notebook 3)."
        )
    return lines or [
        f"- **references** could be given, {what}. There are none here, so an image that scores "
        "high may just be easy."
    ]


def asked(of: Audited, told: Audit) -> str:
    """Who was asked about how many images, and how good the audited network is."""
    images = f"{of.n_members} members and {of.n_nonmembers} non-members"
    owners = f", of {many(of.n_groups, 'owner')}" if of.n_groups else ""
    if told.answers.kind == "scores":
        columns = many(of.n_references, "column") + " of references"
        return f"Read: {plain(of.answers)}, of {images}{owners}, with {columns}. Nobody was asked."
    learned = f", {many(of.n_shadows, 'shadow')} among them" if of.n_references else ""
    if of.n_shadows == of.n_references > 1:
        learned = ", all of them shadows"
    return (
        f"Who answered about {images}{owners}: the audited network, and "
        f"{many(of.n_references, 'reference')}{learned}. The audited network's mean IoU is "
        f"{short(of.miou_members)} on members and {short(of.miou_nonmembers)} on non-members."
    )


# ------------------------------------------------------------------------------- what was found


def blind_baseline(of: Findings) -> str:
    """Whether the lists can be told apart without the model, and which pictures are alike."""
    blind = of.blind
    if blind is None:
        return (
            "**Here it could not be run**: a table has no pictures. Whether the lists differ by "
            "themselves stays open, and whatever is found below may be that difference."
        )
    drawn = blind.relabellings + 1
    text = (
        f"Blind: {as_text(blind.auc)}. Of {drawn} labellings, the true one and {drawn - 1} that "
        f"were dealt out anew, {round(blind.p_value * drawn)} have an AUC as high as the true one."
    )
    n, between = len(of.twins), sum(twin.between_lists for twin in of.twins)
    pairs = f"There {'is' if n < 2 else 'are'} {'at least ' if n >= MOST else ''}{many(n, 'pair')}"
    where = f", {between or 'none'} of them across the two lists" if n else ""
    return f"{text} {_differs(of)} {pairs} of pictures that are the same or nearly so{where}."


def _differs(of: Findings) -> str:
    blind, most = of.blind, f"*{plain(of.blind.most_telling)}*"
    member = [image.member for image in of.images]
    groups = [image.group for image in of.images]
    owners = None if None in groups else groups
    if blind.differs:
        return (
            f"**The lists differ by themselves**, most in {most}. Whatever an attack finds may be "
            "that. Stop here, and draw the lists alike."
        )
    if not blinds.can_tell(member, owners, blind.auc.level):
        return "But there are too few owners for any difference to be seen: it says nothing here."
    if blind.auc.high < 0.5:
        return (
            "Its interval lies below .5, which no difference of the lists explains: it happens by "
            "chance, and more often where images depend on one another."
        )
    return (
        "Its interval does not lie above .5: nothing that it looks at sets the lists apart beyond "
        f"chance. The look that differs most is {most}."
    )


def order(of: Findings) -> str:
    """By which attack the verdict goes, and what could not be run."""
    n = len(of.attacks)
    others = f"one of {n} attacks; to take the best of them afterwards would be picking"
    lines = [
        f"The order is: {'; '.join(ORDER)}. The first of these that what we brought allows is "
        f"**{of.headline}**, {others if n > 1 else 'the only attack that can be run'}."
    ]
    if of.not_run:
        lines.append("\nWhat could not be run, and what it would take:\n")
    return "\n".join(lines + [f"- *{missing.name}*: {missing.needs}" for missing in of.not_run])


def shown_fpr(attack: Attack) -> float:
    """The FPR of the table: 1 %, or the lowest above it where non-members are too few for that."""
    return min(at.fpr for at in attack.at_fpr if at.fpr >= 0.01)


def table(of: Findings) -> str:
    """Every attack with what it needs, its AUC, a TPR, and what an accusation is worth."""
    fpr, level = shown_fpr(of.attacks[0]), of.attacks[0].auc.level
    head = (
        f"| attack | needs | AUC | TPR at {100 * fpr:g} % FPR | precision at priors of 50 and 1 % |"
    )
    lines = [head, "|---|---|---|---|---|"]
    for attack in of.attacks:
        at = next(at for at in attack.at_fpr if at.fpr == fpr)
        name = f"**{attack.name}**" if attack.name == of.headline else attack.name
        worth = f"{short(at.precision['0.5'])}, {short(at.precision['0.01'])}"
        cells = (name, attack.needs, as_text(attack.auc), as_text(at.tpr), worth)
        lines.append(f"| {' | '.join(cells)} |")
    how = f"of the AUC by {of.attacks[0].auc.how}, of the TPR by {of.attacks[0].at_fpr[0].tpr.how}"
    below = f"In brackets: {100 * level:g} % intervals, {how}. Bold: what the verdict goes by."
    return "\n".join([*lines, "", below])


def reading_the_table(of: Findings) -> str:
    """What its rows and intervals mean here."""
    needs = list(dict.fromkeys(attack.needs for attack in of.attacks))
    n, fpr = of.audited.n_nonmembers, shown_fpr(of.attacks[0])
    known = f"**The order of the rows is the order of knowledge:** {', then '.join(needs)}."
    if len(needs) == 1:
        known = "**Here no row needs more than the audited answers.** References would add rows."
    few = "" if fpr <= 0.01 else " For a rate of 1 % it takes a hundred non-members."
    return (
        f"- {known} Notebooks 5 and 6 have more about them.\n"
        "- **The intervals of the TPR are wide** where non-members are few. At "
        f"{100 * fpr:g} % FPR the threshold is number {int(fpr * n + 1e-9) + 1} of {n} non-members "
        f"from the top.{few} An interval that takes the threshold for granted (notebook 5 has one) "
        "misses the truth too often; this one covers threshold *and* members, and a test simulates "
        "it."
    )


def flags(of: Findings, rate: float) -> str:
    """How many members have small p-values, how many are flagged, and how many could be."""
    p_values = np.array([image.p_value for image in of.images if image.member])
    n, others = len(p_values), of.audited.n_nonmembers
    step = 1 / (1 + others)
    chance = n * float((np.arange(1, others + 2) / (others + 1) < SMALL).mean())
    small = f"Below .05 there can be none with {others} non-members"
    if chance:
        small = (
            f"{(p_values < SMALL).sum()} of {n} members are below .05, where chance would give "
            f"about {chance:.1f} (fewer where scores are tied)"
        )
    least = fewest_flagged(n, others, rate)
    able = f"so none is flagged, or {least} at least."
    if least is None:
        able = "so nobody can be flagged here, however high members score."
    owners = " All this takes images to be independent; of owners with several, see `groups.csv`."
    return (
        "If nothing leaked, the bars would follow the dashed line: p-values of non-members spread "
        f"evenly, in steps of {step:.2g}. {small}. Of all members we *flag* "
        f"{sum(image.flagged for image in of.images)}: the Benjamini-Hochberg procedure chooses so "
        f"many that at most {100 * rate:g} % of the flagged are expected to be flagged by chance. "
        f"No p-value is below {step:.2g}, {able}{owners if of.groups else ''}"
    )


def most_exposed(exposed: list[Exposed], told: Audit) -> str:
    """What the picture of the most exposed members shows, or why there is none."""
    if not exposed:
        return (
            "A table has no pictures to show here; `images.csv` will have the risk image by image."
        )
    where = "predicts another class" if told.answers.kind == "labels" else "is unsure"
    compared = all(one.references is not None for one in exposed)
    text = f"The {len(exposed)} members with the highest scores. In the second column: where the "
    return f"{text}model {where}. " + (
        "In the third: where the references do worse than the model. Blue is where the "
        "model knows what its likes do not: that can give an image away."
        if compared
        else "A third would show where references do worse; there is not one for each of these "
        "images."
    )


def helps(of: Findings, told: Audit) -> str:
    """What less of an answer would leak, or why that was not tried."""
    if told.answers.kind == "scores":
        return "**Not tried:** to release less of an answer one needs the answer, not one number."
    if told.answers.kind == "labels":
        return "**Not tried:** these answers are label maps; there is nothing left to withhold."
    if not of.releases:
        return "**Not tried:** `releases` is off in what the audit was told."
    knows = [row for row in of.releases if row.attacker == "adaptive"]
    rest = knows or list(of.releases[1:])
    plain_row, least = of.releases[0], min(rest, key=lambda row: row.auc.value)
    adapted = (
        "A naive mark far left of the adaptive one is the error of judging a defence by who "
        "has not heard of it."
        if knows
        else "Without references nothing is learned and nobody else is asked: there is nothing to "
        "adapt, so there is one attacker only."
    )
    return (
        f"Without a defence *{plain_row.attack}* finds {_use(plain_row)}. The lowest estimate "
        f"against the attacker who knows most is that of *{least.release}*, {_use(least)}. It was "
        f"picked from {len(rest)} after the fact, so its interval is a little too kind. {adapted}"
    )


def _use(row: Release) -> str:
    return f"{as_text(row.auc)} at a mean IoU of {short(row.miou_nonmembers)}"


def verdict(of: Findings) -> str:
    """The verdict as it stands, and its warnings."""
    v = of.verdict
    said = [f"> {plain(text)}" for text in (v.found, v.sure, v.silent)]
    return "\n\n".join(said + [f"**Warning.** {plain(text)}" for text in v.warnings])


def gate(of: Findings, name: str, seed: int = 0) -> str:
    """What the limits in the file say, and the command for CI; name: of audit.yml; seed: another
    one than the file's, unless it is 0."""
    command = f"python3 -m segleak_utils.run audit {shlex.quote(name)}"
    if seed:
        command += f" --seed {seed}"
    said = "There is no limit in the file, so this audit passes whatever it finds."
    if of.gate is None:
        command += f" {EXAMPLE}"
    else:
        found = "; ".join(
            f"{limit.measure} above {limit.limit:g}: *{limit.decision}* ({limit.why})"
            for limit in of.gate.limits
        )
        said = f"By the limits in the file: {found}. Exit code {of.gate.exit_code}."
    return f"{said}\n\nThe same as a command, for CI:\n\n```\n{command}\n```"


def saw(of: Findings) -> str:
    """All of it in four lines."""
    best = next(attack for attack in of.attacks if attack.name == of.headline)
    members = [image for image in of.images if image.member]
    lists = "not tested, for want of pictures"
    if of.blind is not None:
        lists = f"blind baseline {as_text(of.blind.auc)}"
    found, alone = f"{best.name}, finds {as_text(best.auc)}", of.attacks[0]
    if best.needs != "nothing":
        found += f"; without any other network {alone.name} finds {as_text(alone.auc)}"
    flagged = sum(image.flagged for image in members)
    return (
        f"- The lists: {lists}.\n"
        f"- What the verdict goes by, {found}.\n"
        f"- {flagged} of {len(members)} members are flagged one by one.\n"
        f"- Verdict: **{of.verdict.kind}**."
    )


def not_shown(of: Findings, told: Audit) -> str:
    """What this audit leaves open, beyond what every audit does."""
    lines = []
    area = next(attack for attack in of.attacks if attack.name == of.headline).auc
    if of.audited.n_groups is None:
        lines.append(
            "- **Owners.** Nobody told whose the images are. Where they come from patients or "
            "drives, give `data.groups` (of a table: the column `group`): images of one owner "
            "stand or fall together, and the intervals get wider for a reason."
        )
    elif area.how.endswith("groups"):
        lines.append(
            f"- **Owners.** The intervals are over {area.n_member_groups} owners of members and "
            f"{area.n_nonmember_groups} of non-members. Owners unlike these may be exposed more."
        )
    else:
        lines.append(
            f"- **Owners.** There are {many(of.audited.n_groups, 'owner')}, too few for intervals "
            "over them: these are over images, and too narrow."
        )
    if of.blind is None:
        lines.append("- **The lists.** Without pictures nobody knows whether they differ.")
    if told.answers.kind == "labels":
        lines.append("- **Posteriors.** Whoever sees more than label maps may find more.")
    return "\n".join(lines)
