"""From what a network said to one membership score an image, learned on shadows only.

`Outputs` is the seam: `ask`, or whoever has a network, makes them; no attack takes a network.
Throughout, a higher score means "member".
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "calibration",
        "contests",
        "ensembles",
        "evidence",
        "online",
        "patchnets",
        "peers",
        "references",
        "variances",
        "whitebox",
    ],
    submod_attrs={
        "contests": ["Attack", "Contest", "bars_of"],
        "ensembles": ["ensemble"],
        "online": ["online_attacks", "structured_online"],
        "outputs": ["Outputs", "ask", "ask_in_parts", "represent"],
        "patches": [
            "AttackRecipe",
            "dense_scores",
            "evidence_map",
            "patch_scores",
            "score_outputs",
            "stream_scores",
            "train_attacker",
        ],
        "patchnets": ["PatchNet", "REPRESENTATIONS", "Representation"],
        "peers": ["peer_attacks"],
        "references": ["reference_attacks"],
        "regressions": [
            "LinearAttack",
            "blind_features",
            "class_features",
            "global_loss_scores",
            "logistic_attack",
        ],
        "variances": ["bavaria"],
        "whitebox": ["white_box"],
        "windows": ["crop", "patch_corners"],
    },
)
