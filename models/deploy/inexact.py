"""Functions that are close to the network's own: no less exact than arithmetic in bf16, and faster there."""

from __future__ import annotations

import torch
from torch import Tensor

BOUND = 3.4
"""Where the normal distribution function is taken for 0 and 1."""
COEFFICIENTS = (0.393923938, -0.0595495179, 0.00666590156, -0.000412299804, 0.0000105086)


def gelu(x: Tensor) -> Tensor:
    """x Phi(x) with a polynomial in the place of the normal distribution function Phi; float of any shape.

    Phi(x) = 1/2 + c P(c^2) with c = x cut off at -BOUND and BOUND, and P of degree 4, 0 and 1 to 2e-6 at these ends.
    The coefficients minimise the largest error of x Phi(x), which is 0.0012 (a linear program on 4,001 points; bf16
    rounds numbers near 1 to 0.004). An engine computes this in one pass of products and sums; the exact GELU has an
    exponential and a division in it.
    """
    cut = torch.clamp(x, -BOUND, BOUND)
    square = cut * cut
    polynomial = square * COEFFICIENTS[-1] + COEFFICIENTS[-2]
    for coefficient in reversed(COEFFICIENTS[:-2]):
        polynomial = polynomial * square + coefficient
    return x * (polynomial * cut + 0.5)
