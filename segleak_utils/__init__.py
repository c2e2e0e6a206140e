"""Membership inference on semantic segmentation: data, victims, attacks, metrics, pictures."""
