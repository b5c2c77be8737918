"""A model and a question in; while a night runs, the question is asked at every layer, so that it can stop at once.

A layer of a microbatch takes a fraction of a second, so a night stops within one: while it reads, learns, rehearses or
is checked. It stops with an exception, raised in a forward pass: never between a step's noise and its record on disk.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from personalize.errors import NightStoppedError

__all__ = ["Stop", "stoppable"]

Stop = Callable[[], bool]
"""Whether the night must stop; asked often, so it must be cheap."""


@contextmanager
def stoppable(model: Any, stop: Stop | None) -> Iterator[None]:
    """Raise NightStoppedError from the model's next layer once `stop` says yes, for the time of a `with` block.

    Args:
        model: A causal language model of the Llama family.
        stop: The question; None asks nothing.
    """
    with ExitStack() as hooks:
        if stop is not None:
            asked = stop

            def ask(*_: Any) -> None:
                if asked():
                    raise NightStoppedError(
                        "the night was stopped; learn again to go on where it was, at no new charge"
                    )

            for layer in model.model.layers:
                hooks.callback(layer.register_forward_pre_hook(ask).remove)
        yield
