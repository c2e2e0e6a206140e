"""How well a score tells members from others, and what that proves, each with its interval.

The image is the unit; a higher score means "member"; `member` is a boolean array; an image is
called a member if its score is *strictly above* a threshold.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "binormal": ["binormal_auc"],
        "calibration": ["calibration_counts", "calibration_error"],
        "crossed": ["mean_auc", "mean_tpr"],
        "epsilon": [
            "Bound",
            "OneRun",
            "audited",
            "bound_at",
            "epsilon_bound",
            "guessed",
            "guesses_bound",
            "one_run",
            "one_run_bound",
            "one_run_p_value",
            "rate_limits",
        ],
        "grouped": [
            "group_numbers",
            "grouped_auc",
            "grouped_auc_difference",
            "owners_of",
            "tpr_cells",
            "tpr_interval",
        ],
        "intervals": ["Interval"],
        "ranks": ["paired_rank_difference", "rank_correlation"],
        "rates": [
            "PRIORS",
            "paired_tpr_difference",
            "precision_at",
            "precision_of",
            "precisions",
            "tpr_at_fpr",
        ],
        "separation": [
            "Roc",
            "accuracy_at",
            "auc",
            "auc_differences",
            "balanced_accuracy_at",
            "best_threshold",
            "mean_difference",
            "paired_auc_difference",
            "roc",
            "share_of_difference",
        ],
        "tradeoff": [
            "approximate_curve",
            "curve_epsilon",
            "gaussian_bound",
            "gaussian_curve",
            "gaussian_delta",
            "gaussian_epsilon",
            "gaussian_mu",
            "joint_beta_bound",
            "loss_curve",
            "lowest",
            "one_run_excess",
            "one_run_gaussian",
            "one_run_gaussian_bound",
            "refuted_by",
        ],
    },
)
