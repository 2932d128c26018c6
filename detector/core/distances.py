"""The rounding error of squared distances from products of matrices."""

_UNIT32 = 2.0**-24
_TINY32 = 2.0**-126


def relative_error(dimension: int) -> tuple[float, float]:
    """Returns the error bound of a squared distance |a|^2 - 2 ab + |b|^2: the first times |a|^2 + |b|^2, plus the
    second.

    A float32 dot product of length d is off by at most about d units of |a| |b| (Higham 2002, 3.1), and so are the
    squared norms; 2 |a| |b| is at most |a|^2 + |b|^2. Doubled for safety.
    """
    return 4 * (dimension + 16) * _UNIT32, 4 * dimension * _TINY32
