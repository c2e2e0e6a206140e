"""Pictures: pure functions from tensors and numbers to a Figure, in one style, for all eyes.

`widgets` has the sliders over them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["widgets"],
    submod_attrs={
        "audits": [
            "render_exposed",
            "render_lists",
            "render_owners",
            "render_p_values",
            "render_releases",
        ],
        "curves": [
            "render_against",
            "render_class_bars",
            "render_class_gap",
            "render_grouped",
            "render_intervals",
            "render_roc",
            "render_scores",
            "render_subsamples",
            "render_toy_roc",
            "render_trainings",
            "render_trust",
            "render_victim_training",
        ],
        "frontier": [
            "Tradeoff",
            "render_frontier",
        ],
        "explorers": [
            "render_by_references",
            "render_calibration",
            "render_kept",
            "render_threshold",
            "render_votes",
            "render_worth",
        ],
        "leaks": [
            "render_bounds",
            "render_difficulty",
            "render_growth",
            "render_leak_maps",
            "render_own_scores",
            "render_shares_above",
            "render_twice",
            "render_two_attackers",
        ],
        "masks": [
            "colour_mask",
            "colour_prediction",
            "render_mislabelled",
            "without_void",
        ],
        "promises": [
            "render_allowed",
            "render_budget",
            "render_canaries",
            "render_shares",
        ],
        "scenes": [
            "Example",
            "render_channels",
            "render_confidence",
            "render_contact_sheet",
            "render_evidence",
            "render_examples",
            "render_gallery",
            "render_maps",
            "render_palette",
            "render_patch_strip",
            "render_patches",
            "render_pixels",
            "render_roles",
        ],
        "service": [
            "ServicePicture",
            "render_service",
        ],
        "style": [
            "ATTACKERS",
            "ATTACKS",
            "LOOKS",
            "MEMBER",
            "NONMEMBER",
            "styled",
        ],
    },
)
