"""The strongest attack: its forms on shadows, and the chosen one on a victim nobody had looked at.

On shadows: each takes the victim's place, with two others beside it, or with all of them. No image
of a victim has a part in that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from segleak_utils import metrics
from segleak_utils.attacks import ensembles, references, variances
from segleak_utils.attacks.references import CALIBRATED, FEATURES, Case
from segleak_utils.studies import asking, beyond, experiment, rows
from segleak_utils.studies.networks import Network
from segleak_utils.studies.plan import ROOT, Plan
from segleak_utils.studies.rows import Line

CHOICES = ROOT / "docs" / "strongest-choices.csv"
CONFIRMED = ROOT / "docs" / "confirmation.csv"
N_SHADOWS = 4  # of the attacker's eight: each form learns several models on each of them
SEEN = ("victim-0", "victim-1", "victim-2")  # by earlier forms of the attacks
FRESH = "victim-4"  # trained, and scored once, after the last choice


class Tried(BaseModel):
    """A form of the attack as it did on shadows: means over those, and how many they are.

    networks: the attacker's; questions: about each image, to each network. `ahead`: its AUC minus
    that of the structured regression with as many, the mean of the shadows and how many of them
    agree on the sign.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    form: str
    networks: int
    questions: int
    auc: float
    tpr_1: float
    ahead: float
    shadows_ahead: int
    shadows: int


Known = tuple[Case, list[Case]]  # the victim's images, and what is learned from
Ask = Callable[..., Known]  # questions, stand_in: as `asking.shadow_cases`
Form = Callable[[Ask], NDArray[np.float64]]


def regression(seen: Callable[[Case, variances.Prior], np.ndarray], **how: object) -> Form:
    """A logistic regression on what is seen of each case."""

    def scores(ask: Ask) -> NDArray[np.float64]:
        of, learned = ask(**how)
        prior = variances.prior_of(learned)
        said, _ = references.regression("", lambda known: seen(known, prior), of, learned)
        return said.scores

    return scores


def blend(seen: Callable[[Case, variances.Prior], np.ndarray], **how: object) -> Form:
    """The regression and the trees on it."""

    def scores(ask: Ask) -> NDArray[np.float64]:
        of, learned = ask(**how)
        return ensembles.learn(learned, seen)[0](of)

    return scores


def bavaria(ask: Ask) -> NDArray[np.float64]:
    """BaVarIA's score alone."""
    of, learned = ask(questions=1)
    return variances.scores(of, variances.prior_of(learned))


def thinned(ask: Ask) -> NDArray[np.float64]:
    """The blend, of the victim's references one left out in turn: as many as a shadow has."""
    of, learned = ask(questions=2)
    score, _ = ensembles.learn(learned)
    return np.mean([score(part) for part in references.thinned(of)], 0)


def apart(ask: Ask) -> NDArray[np.float64]:
    """The blend on the features of the image, and of the mean over image and flip, side by side."""
    (of, learned), (both, learned_both) = ask(questions=1), ask(questions=2)
    prior, member = variances.prior_of(learned), np.concatenate([c.member for c in learned])
    pairs = [*zip(learned, learned_both, strict=True), (of, both)]
    *seen, asked = [np.hstack([ensembles.features(c, prior) for c in pair]) for pair in pairs]
    model, _ = ensembles.fit(np.concatenate(seen), member, ensembles.groups_of(learned))
    return model.scores(asked)


def structured(of: Case, _: variances.Prior) -> np.ndarray:
    """The features of the structured regression."""
    return FEATURES[CALIBRATED](of)


# The first is what the others are held against. Each: questions an image, and the scores.
FORMS: dict[str, tuple[int, Form]] = {
    CALIBRATED: (1, regression(structured, questions=1)),
    variances.BAVARIA: (1, bavaria),
    f"{CALIBRATED} + BaVarIA": (1, regression(ensembles.features, questions=1)),
    f"{CALIBRATED}, image and flip averaged": (2, regression(structured, questions=2)),
    f"{CALIBRATED}, the victim stands in": (
        1,
        regression(structured, questions=1, stand_in=True),
    ),
    "blended with trees": (1, blend(structured, questions=1)),
    "blended with trees + BaVarIA": (1, blend(ensembles.features, questions=1)),
    "the same, image and flip averaged": (2, blend(ensembles.features, questions=2)),
    "the same, image and the average side by side": (2, apart),
    "averaged, the victim stands in": (
        2,
        blend(ensembles.features, questions=2, stand_in=True),
    ),
    "averaged, the victim's references thinned": (2, thinned),
}
# Of these the ones that are tried with all other shadows, too: the rest is for few networks.
WITH_ALL = (
    CALIBRATED,
    variances.BAVARIA,
    f"{CALIBRATED}, image and flip averaged",
    "blended with trees + BaVarIA",
    "the same, image and flip averaged",
)


def choices(
    plan: Plan,
    path: Path | None = None,
    *,
    n_shadows: int = N_SHADOWS,
    forms: Sequence[str] = tuple(FORMS),
) -> list[Tried]:
    """Every form on shadows; prints them, and writes them to `path` (``build/strongest-choices``).

    ValueError for less than four shadows, or a form that is not known.
    """
    unknown = [name for name in forms if name not in FORMS]
    if unknown or n_shadows < 4:
        raise ValueError(
            f"{n_shadows} shadows, unknown forms {unknown}; expected four or more, and some of "
            f"{', '.join(FORMS)}"
        )
    shadows = experiment.networks(plan, "dependent", n_shadows)
    found = []
    for count in (2, n_shadows - 1):
        wanted = [name for name in forms if count == 2 or name in WITH_ALL]
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
        for k, target in enumerate(shadows):
            beside = [shadows[(k + 1 + j) % n_shadows] for j in range(count)]
            ask = _asker(plan, target, beside)
            for name in wanted:
                scores = FORMS[name][1](ask)
                tpr = metrics.tpr_at_fpr(scores, target.member, 0.01).value
                rates[name].append((metrics.auc(scores, target.member).value, tpr))
                print(f"{target.name}, {count} networks, {name}: {rates[name][-1]}", flush=True)
        first = np.array(rates[wanted[0]])
        for name in wanted:
            areas, tprs = np.array(rates[name]).T
            ahead = areas - first[:, 0]
            found.append(
                Tried(
                    form=name,
                    networks=count,
                    questions=FORMS[name][0],
                    auc=areas.mean(),
                    tpr_1=tprs.mean(),
                    ahead=ahead.mean(),
                    shadows_ahead=int((ahead > 0).sum()),
                    shadows=n_shadows,
                )
            )
        rows.write(found, path or plan.build / "strongest-choices.csv")
    print(table(found))
    return found


def confirm(
    plan: Plan,
    counts: Sequence[int] = (2, 8),
    *,
    victims: Sequence[str] = (*SEEN, FRESH),
    everyone: bool = False,
    path: Path | None = None,
) -> list[Line]:
    """The strongest attack against all with references, last on a victim without part in a choice.

    That one is trained if it is not there. `everyone`: with two networks, also against the attacks
    of the paper and of its peers, and the white box. Prints the lines, and writes them to `path`
    (``build/confirmation.csv``), those that are there after each victim and number of networks.
    """
    found: list[Line] = []
    for name in victims:
        of = experiment.network(plan, name)
        for count in counts:
            shadows = experiment.networks(plan, "dependent", count)
            how = {"everyone": everyone and count == 2, "strongest": True}
            held = beyond.contest(plan, "dependent", of, shadows, **how)
            lines = beyond.lines(held, shadows, held[beyond.BEST].scores)
            found += [line for line in lines if line.networks == count or count == counts[0]]
            print(rows.table(lines), flush=True)
            rows.write(found, path or plan.build / "confirmation.csv")
    return found


def _asker(plan: Plan, target: Network, beside: Sequence[Network]) -> Ask:
    known: dict[tuple, Known] = {}

    def ask(questions: int, stand_in: bool = False) -> Known:
        key = questions, stand_in
        if key not in known:
            of = asking.case(plan, target, beside, questions=questions)
            how = {"questions": questions, "stand_in": stand_in}
            known[key] = of, asking.shadow_cases(plan, beside, target, **how)
        return known[key]

    return ask


def table(found: Sequence[Tried]) -> str:
    """The forms as a table in Markdown."""
    head = ["form", "networks", "questions an image", "mean AUC", "mean TPR at 1 % FPR"]
    head += ["precision at priors of 50 / 10 / 1 %", "AUC minus the first's (shadows ahead)"]
    out = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for one in found:
        cells = [one.form, str(one.networks), str(one.questions), f"{one.auc:.3f}"]
        cells += [f"{one.tpr_1:.3f}", metrics.precisions(one.tpr_1, 0.01)]
        cells += [f"{one.ahead:+.3f} ({one.shadows_ahead} of {one.shadows})"]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out)
