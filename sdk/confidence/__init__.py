"""How sure a model was of an answer in, the chance that it is right out, and where to stop trusting it."""

from sdk.confidence.calibration import Calibration, Rated, calibrated
from sdk.confidence.conformal import controlled
from sdk.confidence.evidence import FEATURES, Evidence, agreement
from sdk.confidence.head import Head

__all__ = ["FEATURES", "Calibration", "Evidence", "Head", "Rated", "agreement", "calibrated", "controlled"]
