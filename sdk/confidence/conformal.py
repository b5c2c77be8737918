"""Confidences and which answers were wrong in, the threshold above which answers are kept out, at a stated risk.

The loss of an answer at a threshold t is 1 if it is wrong and kept (confidence > t), else 0: it is at most 1, falls as
t rises, and is continuous from the right. Conformal risk control takes the smallest t with

    (wrong and kept among n calibration answers + 1) / (n + 1) ≤ risk,

and then the chance that the next answer is wrong *and* kept is at most `risk`, over the draw of calibration answers and
the next one, if all are exchangeable; for any head, any model, any n. It is a share of all requests, not of those kept.

Source: Angelopoulos et al., Conformal Risk Control, arXiv:2208.02814, Theorem 1 with B = 1.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["controlled"]


def controlled(confidences: Sequence[float], wrong: Sequence[bool], *, risk: float) -> float:
    """The smallest threshold that controls the risk; 1 where even keeping nothing is all that the items can vouch for.

    Args:
        confidences: Of calibration answers that the head was not fitted to, each in [0, 1].
        wrong: Whether each of them was wrong.
        risk: Highest chance that an answer is wrong and kept, in (0, 1).

    Raises:
        ValueError: The risk is not in (0, 1), or the lists differ in length.
    """
    if not 0 < risk < 1:
        raise ValueError(f"a risk is in (0, 1), got {risk}")
    if len(confidences) != len(wrong):
        raise ValueError(f"{len(confidences)} confidences and {len(wrong)} verdicts do not belong together")
    said, is_wrong = np.asarray(confidences, dtype=np.float64), np.asarray(wrong, dtype=bool)
    most = int(np.floor(risk * (len(said) + 1) + 1e-9)) - 1  # So many may be wrong and kept.
    if most < 0:
        return 1.0
    worst = np.sort(said[is_wrong])[::-1]  # Confidences of the wrong ones, highest first.
    return float(worst[most]) if len(worst) > most else 0.0
