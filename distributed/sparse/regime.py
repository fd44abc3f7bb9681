"""Whether a run is long enough for sparse gradients with error feedback, and how high its learning rate may be.

Of a coordinate that is sent every tau steps, tau about the rate, m / beta is owed. A sending pays a share of it, and what is left
oscillates; each sending damps it by sqrt(1 - beta), so that a debt is paid within some 2 rate / beta steps. In a run of T
steps that can happen

    payments  =  T beta / rate

times. With momentum, lr stands for lr / (1 - momentum); along a direction of curvature l the recursion is stable while

    lr l tau  <  (4 - 2 beta) / beta                      2 with beta 1, 6 with 0.5, 38 with 0.1

Both follow from the recursion of distributed/sparse/error_feedback.py for one coordinate, which tests simulate. In the runs of
arXiv 2104.11125 payments are about 60 (large batch) to 1,600.
"""

ENOUGH = (
    5.0  # payments; compressed runs of this project with fewer lost accuracy: docs/measured/compression-accuracy.md
)


def payments(steps: int, rate: int, beta: float) -> float:
    """How many times what is not sent can be paid within so many steps of compression."""
    return steps * beta / rate


def stability_limit(beta: float) -> float:
    """The largest lr l tau with which a coordinate's debt does not grow."""
    return (4 - 2 * beta) / beta


def stability(*, lr: float, momentum: float, curvature: float, rate: int, beta: float) -> float:
    """lr l rate / (1 - momentum) over its limit, along a direction of curvature l; above 1 a debt along it grows."""
    return lr * curvature * rate / (1 - momentum) / stability_limit(beta)


def too_short(steps: int, rate: int, beta: float) -> str | None:
    """A warning of a run of so few steps of compression; None if they are enough."""
    found = payments(steps, rate, beta)
    if found >= ENOUGH:
        return None
    needed = round(ENOUGH * rate / beta)
    return (
        f"backend.rate={rate}, backend.beta={beta:g}: {steps} compressed steps pay what is not sent {found:.2g} times "
        f"(steps x beta / rate); runs below {ENOUGH:g} have lost accuracy: train {needed} steps, or lower backend.rate, "
        "or raise backend.beta at a lower optimizer.lr (docs/methods/scalecom.md)"
    )
