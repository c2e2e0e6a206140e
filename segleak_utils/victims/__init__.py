"""Networks that are trained on *members* only, and how they are asked.

A shadow is a victim of the attacker's own. `dpsgd` has the defence inside training, `accountant`
what it promises, `street` the paper's scale over several processes, `store` what a network
answered, on disk.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["accountant", "dpsgd", "encoders", "processes", "store", "street"],
    submod_attrs={
        "asking": [
            "best_device",
            "deep_features",
            "described",
            "device_of",
            "has_bf16",
            "logit_batches",
            "logits_of",
            "loss_batches",
            "mc_dropout",
            "padded",
            "posterior_batches",
            "posteriors",
            "posteriors_at",
        ],
        "checkpoints": ["resume"],
        "gradients": ["gradient_norms", "head_gradient_norms"],
        "iou": ["confusion_matrix", "iou_of", "mean_iou", "mean_iou_difference"],
        "networks": ["Recipe", "build_victim", "fingerprint"],
        "recorded": ["Recorded", "recorded"],
        "training": ["augmentation", "train_victim"],
        "weights": ["load_victim", "read_weights", "save_weights"],
    },
)
