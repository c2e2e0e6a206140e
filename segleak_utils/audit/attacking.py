"""Which attacks what there is allows, and what they find.

Nothing is learned from the audited images: what learns does so from *shadows*, references of which
it is known what they were trained on. What the verdict goes by is chosen by an order that was fixed
beforehand, never by what came out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline

from segleak_utils import metrics
from segleak_utils.attacks import calibration, peers, references, regressions
from segleak_utils.attacks.contests import GLOBAL, LOGISTIC
from segleak_utils.attacks.references import Case
from segleak_utils.audit.findings import NotRun
from segleak_utils.audit.said import Said
from segleak_utils.audit.scores import Scored

ACCURACY, SCORE = "share of right pixels", "score"
ERRORS = "share of right pixels minus references'"
SCORE_DIFFERENCE = "score minus references'"
# What the verdict goes by: the first of these that could be run.
ORDER = (
    references.CALIBRATED, references.RMIA, LOGISTIC, peers.LABEL_ONLY, SCORE_DIFFERENCE, ERRORS,
    GLOBAL, ACCURACY, SCORE,
)  # fmt: skip
LEAST = 10  # members, and non-members, of all shadows: fewer are too few for folds
RMIA_A = 0.3  # without shadows to choose it on: that of the paper for images (Zarifzadeh et al.)
NEEDS = {
    references.DIFFERENCE: "references", references.LIRA: "references",
    references.LIRA_EACH: "references", references.RMIA: "references", ERRORS: "references",
    SCORE_DIFFERENCE: "references", LOGISTIC: "shadows", peers.LABEL_ONLY: "shadows",
    references.PER_CLASS: "shadows", references.ZONES: "shadows", references.CALIBRATED: "shadows",
}  # fmt: skip
SEEN = {
    GLOBAL: "mean loss", peers.DICE: "mean Dice", ACCURACY: "predicted classes",
    ERRORS: "predicted classes, and the references'", SCORE: "the score that was brought",
    SCORE_DIFFERENCE: "the score, and the references'",
    peers.LABEL_ONLY: "errors by class and zone",
    LOGISTIC: "losses by class", references.PER_CLASS: "losses by class, and the references'",
    references.ZONES: "losses by class and zone, and the references'",
    references.CALIBRATED: "losses by class and zone, and the references'",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Shadow:
    """A reference asked about its own lists: what it said, who was in, and what K others said.

    unseen: bool [K,M], which of them was not trained on which image; all, if it is left out.
    """

    said: Said
    member: NDArray[np.bool_]
    references: tuple[Said, ...]
    unseen: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Known:
    """All that the attacks know. unseen: bool [K,N], which reference was not trained on which
    image; labels_only: there are predicted classes, and no probabilities."""

    victim: Said
    member: NDArray[np.bool_]
    references: tuple[Said, ...] = ()
    unseen: NDArray[np.bool_] | None = None
    shadows: tuple[Shadow, ...] = ()
    labels_only: bool = False


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of each attack on the audited images, float64 [N]; what could not be run.

    outside: those that an attack gives to images which the shadows were not trained on; of what
    learns, only the first in `ORDER` has them.
    """

    of: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    outside: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    not_run: tuple[NotRun, ...] = ()

    @property
    def headline(self) -> str:
        return next(name for name in ORDER if name in self.of)


def scores_of(known: Known, only: str | None = None) -> Scores:
    """Every attack that can be run, or of those that learn just the one called `only`.

    ValueError for references or shadows that cannot be such.
    """
    found = Scores()
    of, outside = found.of, found.outside
    case, cases = _case(known), _cases(known)
    own = known.victim
    if not known.labels_only:
        of[GLOBAL] = -own.losses
    of[peers.DICE], of[ACCURACY] = own.dice, own.accuracies
    if case is not None:
        if known.labels_only:
            theirs = _unseen([said.accuracies for said in known.references], known.unseen)
            of[ERRORS] = own.accuracies - theirs.mean(0)
        else:
            for name, score in references.scores(len(case.references)).items():
                of[name] = score(case)
                outside |= {name: _joined([score(c)[~c.member] for c in cases])} if cases else {}
            of[references.RMIA] = _rmia(case, cases)
    if known.shadows:
        said = [shadow.said for shadow in known.shadows]
        member = np.concatenate([shadow.member for shadow in known.shadows])
        whose = np.repeat(np.arange(len(said)), [len(one.ids) for one in said])
        _enough(member)
        learners = {peers.LABEL_ONLY: (own.labels, [s.labels for s in said])}
        if not known.labels_only:
            plain = [references.classes(s.zones) for s in (own, *said)]
            learners[LOGISTIC] = (plain[0], plain[1:])
        if case is not None and cases and not known.labels_only:
            for name, features in references.FEATURES.items():
                if name != LOGISTIC:
                    learners[name] = (features(case), [features(c) for c in cases])
        first = next(name for name in ORDER if name in of or name in learners)
        for name, (ours, theirs) in learners.items():
            if only not in (None, name):
                continue
            rows = np.concatenate(theirs)
            model = regressions.logistic_attack(rows, member)
            of[name] = model.decision_function(ours)
            if only is None and name == first:  # out of fold it takes five times as long
                outside[name] = out_of_fold(model, rows, member, whose)
    return Scores(of, outside, _not_run(known, case is not None))


def out_of_fold(
    model: Pipeline, rows: NDArray, member: NDArray[np.bool_], shadow: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Scores of the shadows' non-members by a model like this one that is learned without them
    (shadow by shadow where there are four)."""
    groups = shadow if len(np.unique(shadow)) >= 4 else np.arange(len(member))
    folds = GroupKFold(min(5, len(np.unique(groups))))
    own = cross_val_predict(
        model, rows, member, groups=groups, cv=folds, method="decision_function"
    )
    return own[~member]


def _enough(member: NDArray[np.bool_]) -> None:
    m, n = int(member.sum()), int((~member).sum())
    if min(m, n) < LEAST:
        raise ValueError(
            f"the shadows have {m} members and {n} non-members in all, too few to learn from: give "
            f"them at least {LEAST} of each, better 100, or leave out shadow"
        )


def _rmia(case: Case, cases: Sequence[Case]) -> NDArray[np.float64]:
    def score(of: Case, a: float) -> NDArray:
        own, out = of.losses
        return calibration.likelihood_ratio(-own, -out, a=a)

    best = RMIA_A
    if cases:  # chosen on shadows
        member = np.concatenate([c.member for c in cases])
        best = max(
            references.RMIA_A,
            key=lambda a: metrics.auc(_joined([score(c, a) for c in cases]), member).value,
        )
    return score(case, best)


def _joined(parts: Sequence[NDArray]) -> NDArray:
    return np.concatenate(parts)


def unseen_rows(values: NDArray, unseen: NDArray[np.bool_]) -> NDArray:
    """Of each image what so many references say that did not see it as there are for every image.

    values: [K,N,...]; unseen: bool [K,N]; the result [k,N,...]. Empty where some image was seen by
    all of them.

    >>> values = np.array([[1, 2], [3, 4], [5, 6]])
    >>> unseen_rows(values, np.array([[True, False], [False, True], [True, True]]))
    array([[1, 4],
           [5, 6]])
    """
    k = int(unseen.sum(0).min()) if len(unseen) else 0
    order = np.argsort(~unseen, axis=0, kind="stable")[:k]
    return np.take_along_axis(values, order.reshape(*order.shape, *[1] * (values.ndim - 2)), 0)


def _unseen(values: Sequence[NDArray], unseen: NDArray[np.bool_] | None) -> NDArray:
    stacked = np.stack(values)
    return unseen_rows(stacked, np.ones(stacked.shape[:2], bool) if unseen is None else unseen)


def _case(known: Known) -> Case | None:
    if not known.references:
        return None
    theirs = _unseen([said.zones for said in known.references], known.unseen)
    return Case(known.victim.zones, theirs, known.member) if len(theirs) else None


def _cases(known: Known) -> list[Case]:
    return [
        Case(of.said.zones, _unseen([said.zones for said in of.references], of.unseen), of.member)
        for of in known.shadows
        if of.references
    ]


def _not_run(known: Known, compared: bool) -> tuple[NotRun, ...]:
    found = []
    if known.labels_only:
        found.append(
            NotRun(name=GLOBAL, needs="It needs probabilities; there are label maps only.")
        )
    if not compared:
        needs = (
            "They need a reference, a network like this one that was not trained on these images: "
            "give `references`, or more images of the kind to `train_references`."
        )
        if known.references:
            needs = "They need a reference for every image; some were seen by all references."
        names = [references.DIFFERENCE, references.LIRA, references.RMIA]
        found.append(NotRun(name=", ".join(names), needs=needs))
    elif not known.labels_only:
        k = len(known.references)
        if k < 3:
            found.append(
                NotRun(
                    name=references.LIRA_EACH, needs=f"It needs three references; there are {k}."
                )
            )
    if not known.shadows:
        found.append(
            NotRun(
                name=f"{peers.LABEL_ONLY}, {LOGISTIC}, {references.CALIBRATED}",
                needs="They learn from a shadow, a reference whose own members and non-members are "
                "given: add `shadow` to a reference, or use `train_references`.",
            )
        )
    return tuple(found)


def scores_brought(scored: Scored) -> Scores:
    """The attacks that a table of losses or scores allows."""
    of: dict[str, NDArray[np.float64]] = {}
    values, theirs = scored.values, scored.references
    if len(theirs):
        calibration.refuse_itself(np.array_equal(values, one) for one in theirs)
    if not scored.are_losses:
        of[SCORE] = values
        if len(theirs):
            of[SCORE_DIFFERENCE] = values - theirs.mean(0)
    else:
        of[GLOBAL] = -values
        if len(theirs):
            sure, others = (calibration.confidence(loss) for loss in (values, theirs))
            of[references.DIFFERENCE] = theirs.mean(0) - values
            of[references.LIRA] = calibration.lira_offline(sure, others, fixed=True)
            if len(theirs) > 2:
                of[references.LIRA_EACH] = calibration.lira_offline(sure, others)
            of[references.RMIA] = calibration.likelihood_ratio(-values, -theirs, a=RMIA_A)
    missing = [
        NotRun(
            name="attacks on loss maps, Dice, label-only, the learned ones",
            needs="They need answers for each pixel: give a model, its posteriors or its label "
            "maps.",
        )
    ]
    if not len(theirs):
        names = f"{references.DIFFERENCE}, {references.LIRA}, {references.RMIA}"
        needs = "They need columns reference_1, ...: the same number by a network that was not "
        missing.append(NotRun(name=names, needs=needs + "trained on these images."))
    return Scores(of, {}, tuple(missing))
