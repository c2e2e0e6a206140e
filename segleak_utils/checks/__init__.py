"""What all rooms ask of their input: is it what it says? One place, and below every room.

A bad input must never give a plausible number: what is not what it should be is a ValueError that
names the thing, what was found, what was expected and how to mend it. `numbers`: scores, labels,
counts and shares (NumPy alone); `tensors`: posteriors, masks and loss maps.
"""

VOID = 255  # the label of pixels that do not count
