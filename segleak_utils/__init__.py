"""segleak: does a segmentation model give away which images it was trained on?

The house has rooms, and each room's docstring says what it is for: `data`, `metrics`,
`representations`, `victims`, `attacks` and `defenses` are the core, which knows no data set of ours
and needs a handful of packages; `synthstreets` draws scenes, `figures` draws pictures, `running`
executes the notebooks, `studies` are whole experiments on top of all that.

An auditor needs three things: what a network said (posteriors), the true masks, and who was a
member. With a *shadow* (a network of one's own, of which one knows who was in) an attack is
learned, and pointed at the victim:

>>> import numpy as np, torch
>>> from segleak_utils import Outputs, auc, class_features, global_loss_scores, logistic_attack
>>> def answers(seed):  # stands in for a network: on its members it is a little surer
...     generator = torch.Generator().manual_seed(seed)
...     masks = torch.randint(0, 4, (120, 24, 24), generator=generator)
...     member = np.arange(len(masks)) < 60
...     right = torch.nn.functional.one_hot(masks, 4).movedim(-1, 1)
...     sure = torch.from_numpy(np.where(member, 2.1, 2.0)).view(-1, 1, 1, 1).float()
...     logits = sure * right + torch.randn(right.shape, generator=generator)
...     return logits.softmax(1), masks, member
>>> victim = Outputs.of(*answers(seed=0))
>>> shadow = Outputs.of(*answers(seed=1))
>>> loss = auc(global_loss_scores(victim), victim.member)
>>> print(loss)  # an AUC with its 95 % interval over the images
.88 [.80, .93]
>>> attack = logistic_attack(class_features(shadow), shadow.member)
>>> learned = auc(attack.decision_function(class_features(victim)), victim.member)
>>> learned.low > 0.5, learned.n_members, learned.n_nonmembers
(True, 60, 60)

Only the standard library is imported here: `run` starts on a bare Python.
"""

from importlib import import_module

_PUBLIC = {
    "Scenes": "data",
    "Split": "data",
    "folder": "data",
    "Outputs": "attacks",
    "ask": "attacks",
    "blind_features": "attacks",
    "class_features": "attacks",
    "global_loss_scores": "attacks",
    "logistic_attack": "attacks",
    "structured_loss_map": "representations",
    "Release": "defenses",
    "Interval": "metrics",
    "auc": "metrics",
    "best_threshold": "metrics",
    "tpr_at_fpr": "metrics",
}
__all__ = list(_PUBLIC)


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_PUBLIC])
