"""Sentences that results choose: pure functions, true for whatever the results are.

Tests run them over ties, reversals and all that parameters allow. Whoever is ahead is so with the
whole interval of a paired difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from segleak_utils.metrics import Interval
from segleak_utils.running.prose import listed


def verdict(
    difference: Interval,
    up: str = "ahead",
    down: str = "behind",
    level: str = "undecided",
    *,
    than: float = 0,
) -> str:
    """What an interval allows to say: that of a difference, or of what is held against `than`.

    >>> verdict(Interval(0.1, -0.1, 0.3, 9, 9)), verdict(Interval(0.1, 0.05, 0.3, 9, 9))
    ('undecided', 'ahead')
    """
    return up if difference.low > than else down if difference.high < than else level


def counts(differences: Iterable[Interval]) -> dict[str, int]:
    """How many differences are ahead, behind and undecided."""
    found = [verdict(difference) for difference in differences]
    return {word: found.count(word) for word in ("ahead", "behind", "undecided")}


def tally(differences: Iterable[Interval]) -> str:
    """`counts` in words.

    >>> tally([Interval(0.1, 0.05, 0.3, 9, 9), Interval(0.1, -0.1, 0.3, 9, 9)])
    'ahead in 1 of 2, behind in 0, undecided in 1'
    """
    found = counts(differences)
    first, *rest = [f"{word} in {n}" for word, n in found.items()]
    return ", ".join([f"{first} of {sum(found.values())}", *rest])


# ---------------------------------------------------------------------------- notebook 03


def near_a_coin(loss: float) -> str:
    """Where a training's last loss lies beside that of a coin toss, ln 2 nats."""
    gap = np.log(2) - loss
    if gap < 0:
        return "It ends above the dashed line: it has learned nothing that holds for a new batch."
    if gap < 0.1:
        return "It stays close to the dashed line: a single patch is seldom easy to decide."
    return "It leaves the dashed line; a single patch is still far from certain."


def more_patches(gain: Interval, number: int) -> str:
    """Whether the mean of `number` patches beats the first one, on the same images."""
    if number < 2:
        return "There is one patch, so nothing to average"
    return verdict(
        gain, "More patches help", "More patches hurt here", "More patches do not clearly help here"
    )


def size_or_area(same_number: Interval, same_area: Interval) -> str:
    """What larger patches change (largest minus smallest): by their number fixed, by the area."""
    larger = verdict(same_number, "raises the AUC", "lowers the AUC", "changes nothing clearly")
    at_area = verdict(same_area, "still raises it", "lowers it", "changes nothing clearly")
    text = (
        f"With the same number of patches a larger patch {larger} ({same_number:+.3}); with the "
        f"same area looked at it {at_area} ({same_area:+.3})."
    )
    if same_number.low > 0 and same_area.high < same_number.low:
        text += " So most of the effect of the size is that *more of the image is seen*."
    return text


def hard_and_easy(missed: Interval | None, accused: Interval | None) -> str:
    """Whether mistakes have to do with difficulty: mean losses of missed minus found members, and
    of accused minus cleared non-members; None where one of the two groups is too small."""
    hard, easy = missed is not None and missed.low > 0, accused is not None and accused.high < 0
    if hard and easy:
        return "So the attacker misses *hard* members and accuses *easy* non-members."
    if hard:
        return "So the members that it misses are the *hard* ones."
    if easy:
        return "So the non-members that it accuses are the *easy* ones."
    return "These means do not differ clearly."


# ---------------------------------------------------------------------------- notebook 04


def order_under_noise(plain: np.ndarray, noisy: Mapping[str, np.ndarray]) -> str:
    """How one pixel's posterior [C] fares under noise: largest change, and whether its most
    probable classes keep their order (those of `plain`, the most probable first)."""
    first = np.argsort(-plain, kind="stable")
    parts = []
    for name, values in noisy.items():
        change = float(np.abs(values - plain).max())
        kept = (np.diff(values[first]) <= 0).all()
        top = int(np.argmax(values)) == first[0]
        order = "their order is kept" if kept else "another order"
        if not top:
            order += ", and another class on top"
        parts.append(f"at {name} they change by up to {change:.2f} ({order})")
    return f"Read the table from left to right: {'; '.join(parts)}."


def apart(gaps: Mapping[tuple[str, str], Interval]) -> str:
    """Where the adaptive attacker leads the naive one: gaps by (release, attack)."""
    at = max(gaps, key=lambda key: gaps[key].value)
    ahead = sum(d.low > 0 for d in gaps.values())
    if not ahead:
        return f"In none of {len(gaps)} comparisons is the adaptive attacker clearly ahead."
    return (
        f"They are furthest apart at {at[0]} for *{at[1]}* ({gaps[at]:+.3}). In {ahead} of "
        f"{len(gaps)} comparisons the adaptive attacker is ahead with the whole paired interval."
    )


def both_wanted(usable: Sequence[str], hidden: Sequence[str]) -> str:
    """Releases that keep the use, releases that hide the members, and whether one does both."""
    both = [name for name in usable if name in hidden]
    return (
        f"The settings that leave at least nine tenths of the mean IoU are {listed(usable)}. Those "
        f"that bring the adaptive regression's interval over .5 are {listed(hidden)}. "
        + (f"Both are done by {listed(both)}." if both else "No setting does both.")
    )


def averages_out(by_number: Mapping[int, float]) -> str:
    """Correlations of a noisy loss with the one without noise, of means over so many pixels."""
    few, many = min(by_number), max(by_number)
    one = "One pixel's" if few == 1 else f"The mean of {few} pixels'"
    text = (
        f"{one} loss under noise has a correlation of {by_number[few]:.2f} with what it was "
        f"without; the mean of {many} pixels one of {by_number[many]:.2f}. "
    )
    if by_number[many] > by_number[few]:
        return text + (
            "Each pixel's noise is drawn anew, so it averages out; that the victim does better on "
            "its members is in every pixel, and stays. To the eye the answer is confetti, to a "
            "mean it is not."
        )
    return text + "Here averaging brings nothing back."


def dominance(by: Mapping[str, Mapping[str, Sequence[str]]]) -> list[list[str]]:
    """Each service, and who is better than it against each attacker: rows of a table.

    by: for each attacker, the services that dominate each service.

    >>> dominance({"naive": {"top 3": ["argmax"]}, "adaptive": {"top 3": []}})
    [['*top 3*', 'argmax', '**nobody**']]
    """
    services = dict.fromkeys(name for of in by.values() for name in of)
    # some names have commas
    told = {who: {name: "; ".join(better) for name, better in of.items()} for who, of in by.items()}
    return [[f"*{s}*", *(of.get(s, "-") or "**nobody**" for of in told.values())] for s in services]


# ---------------------------------------------------------------------------- notebook 05


def overlapping(areas: Mapping[str, Interval]) -> str:
    """Whether single intervals overlap, and what that means."""
    ordered = sorted(areas.values(), key=lambda area: area.value)
    pairs = itertools.pairwise(ordered)
    if any(a.high >= b.low for a, b in pairs):
        return (
            "Some of the intervals overlap. Does that mean we cannot tell those attacks apart? No, "
            "and the section *Two attacks on the same images* shows why."
        )
    return "None of the intervals overlap, so here the order is plain without any pairing."


def against_the_bar(verdicts: Mapping[str, Sequence[str]]) -> str:
    """Patch attacks against the regression: the verdicts of each, over the contests."""
    every = [word for words in verdicts.values() for word in words]
    ahead = [name for name, words in verdicts.items() if set(words) == {"ahead"}]
    if "ahead" not in every:
        return (
            "**No patch attack is ahead of the regression in any contest.** A linear model on a "
            "few numbers for each class is hard to pass: it sees the whole image at once, and its "
            "numbers say how much loss there is, of which class, and on how large an area."
        )
    text = (
        f"Against the regression the patch attacks were ahead {every.count('ahead')} times, behind "
        f"{every.count('behind')} times and undecided {every.count('undecided')} times."
    )
    return text + (f" Ahead in every contest: {listed(ahead)}." if ahead else "")


# ---------------------------------------------------------------------------- notebook 06


def calmer(alone: float, beside: float) -> str:
    """How the scatter of the victim's loss compares with that of its difference from references."""
    if beside < alone:
        return (
            f"the *difference* of the two scatters {alone / beside:.1f} times less than the "
            "victim's loss alone. That scatter was the noise in which the leak was hidden"
        )
    return "the *difference* of the two scatters no less than the victim's loss alone"


def lower_at_the_same_difficulty(gap: Interval) -> str:
    """Members' loss minus non-members', both beside references."""
    where = verdict(gap, "higher than", "lower than", "about as high as")
    return f"members (blue) lie {where} non-members at the same difficulty (difference {gap:+.3})"


def levers(difficulty: Interval, structure: Interval) -> str:
    """Two paired differences: of the plain difference minus the global loss, and of the structured
    regression minus the plain difference."""
    first = verdict(difficulty, "lifts", "lowers", "does not clearly change")
    second = verdict(structure, "adds to it", "takes from it", "adds nothing clear to it")
    text = (
        f"One subtraction {first} the AUC ({difficulty:+.3}); structure {second} ({structure:+.3})."
    )
    if difficulty.low > max(0.0, structure.high):
        text += " **Difficulty is the large lever.**"
    return text


def by_attack(behind: Mapping[str, Sequence[Interval]]) -> str:
    """Whom the best attack is ahead of: for each other attack its lead, a difference a victim.

    Who is not beaten on a single victim is named first, not hidden in a sum.
    """
    won = {name: sum(d.low > 0 for d in found) for name, found in behind.items()}
    lost = {name: sum(d.high < 0 for d in found) for name, found in behind.items()}
    never = [name for name, n in won.items() if not n]
    some = [name for name, n in won.items() if 0 < n < len(behind[name])]
    always = [name for name, n in won.items() if n and n == len(behind[name])]
    parts = [f"of {listed(never)} on **none**"] if never else []
    parts += [f"of *{name}* on {won[name]} of {len(behind[name])}" for name in some]
    if always:
        rest = f"all {len(always)} attacks" if not parts else f"the other {len(always)} attacks"
        parts.append(f"of {rest} on every victim")
    text = "; ".join(parts)
    worse = [f"*{name}* on {n}" for name, n in lost.items() if n]
    return text + (f". It is *behind* {', '.join(worse)}" if worse else "")


def course(points: Sequence[tuple[str, Interval]]) -> str:
    """What an AUC does along an axis, step by step, as far as neighbouring intervals allow to say.

    Intervals of different victims: a step is told where they do not meet, and the ends likewise.

    >>> a, b = Interval(0.9, 0.88, 0.92, 9, 9), Interval(0.8, 0.77, 0.82, 9, 9)
    >>> course([("100", a), ("200", a), ("400", b)])
    'stays within its intervals up to 200, falls to 400'
    """
    steps: list[tuple[str, str]] = []
    for (_, a), (name, b) in itertools.pairwise(points):
        word = "falls" if b.high < a.low else "rises" if b.low > a.high else "stays"
        if steps and steps[-1][0] == word:
            steps[-1] = (word, name)
        else:
            steps.append((word, name))
    told = {"falls": "falls to", "rises": "rises to", "stays": "stays within its intervals up to"}
    if not steps:
        return "has a single point"
    text = ", ".join(f"{told[word]} {name}" for word, name in steps)
    kinds = {word for word, _ in steps}
    (first, a), (last, b) = points[0], points[-1]
    if kinds == {"stays"} and (b.high < a.low or b.low > a.high):
        text += f" by steps, yet from {first} to {last} it {'falls' if b.high < a.low else 'rises'}"
    return text
