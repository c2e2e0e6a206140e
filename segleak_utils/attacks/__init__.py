"""From what a network said to one membership score an image, learned on shadows only.

`Outputs` is the seam: whoever has a network asks it and hands them over; the attacks ask nobody.
Throughout, a higher score means "member".
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "calibration",
        "contests",
        "evidence",
        "online",
        "patchnets",
        "peers",
        "references",
    ],
    submod_attrs={
        "contests": ["Attack", "Contest"],
        "outputs": ["Outputs", "ask", "represent"],
        "patches": [
            "AttackRecipe",
            "dense_scores",
            "evidence_map",
            "patch_scores",
            "score_outputs",
            "stream_scores",
            "train_attacker",
        ],
        "regressions": [
            "LinearAttack",
            "blind_features",
            "class_features",
            "global_loss_scores",
            "logistic_attack",
        ],
        "windows": ["crop", "patch_corners"],
    },
)
