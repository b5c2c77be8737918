"""A model in, a scorecard out: what it can do, what it costs, and how sure that is."""

from sdk.build.evaluate.card import Leg, Scorecard
from sdk.build.evaluate.card_file import card_fields, read_card, write_card
from sdk.build.evaluate.comparison import Difference, compare
from sdk.build.evaluate.density import experience_density
from sdk.build.evaluate.device_tasks import task_score
from sdk.build.evaluate.intents import snips
from sdk.build.evaluate.interval import Estimate
from sdk.build.evaluate.language import bits_per_byte
from sdk.build.evaluate.opened import Opened, open_model
from sdk.build.evaluate.page import write_scorecard_page
from sdk.build.evaluate.run import Inputs, scorecard

__all__ = [
    "Difference",
    "Estimate",
    "Inputs",
    "Leg",
    "Opened",
    "Scorecard",
    "bits_per_byte",
    "card_fields",
    "compare",
    "experience_density",
    "open_model",
    "read_card",
    "scorecard",
    "snips",
    "task_score",
    "write_card",
    "write_scorecard_page",
]
