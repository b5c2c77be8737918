"""An assistant in, whoever answers the server's requests out: its base with any of the home's adapters, by model id.

Rules: `limbeck` answers as `limbeck ask` does, `limbeck-base` without an adapter, `limbeck:LINE` with that line's. The
adapter in use is looked up at each request, so that tonight's answers tomorrow morning. What is known of earlier
prompts is used again under the same adapter only.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from personalize.home import Home
from personalize.shelf import Shelf, lines_of
from sdk.bundle import Bundle, default_bundle
from sdk.device.answers.writer import Writer
from sdk.device.engines.choice import Opened, open_engine
from sdk.device.server.answering import Ask, End, Model, Piece
from sdk.device.server.refusal import Refusal
from sdk.device.server.writing import asked_of, guided_by, told_of
from sdk.device.slots import lease
from sdk.errors import SchemaError

__all__ = ["Local"]

KEPT_TOKENS = 4096  # Of all tracks kept for later prompts: about 190 MB at 46 kB a token.


class Local:
    """The home's models on one engine."""

    def __init__(self, opened: Opened, home: Home, line: str | None = None) -> None:
        """Answer with an engine.

        Args:
            opened: The loaded base.
            home: Where the adapters are.
            line: Whose adapter `limbeck` wears; None is the line that was chosen last.
        """
        self._engine, self._chat, self._home, self._line = opened.engine, opened.chat, home, line
        self.engine_choice = opened.choice
        self._writer = Writer(opened.engine, opened.chat, kept_tokens=KEPT_TOKENS)
        self._worn: dict[str, str] = {}
        self._lock = threading.Lock()
        self._lease: object = None

    @classmethod
    def open(
        cls, home: Path | None = None, *, bundle: Bundle | None = None, line: str | None = None, engine: str = "auto"
    ) -> "Local":
        """Open the base model and the home; arguments and errors as Assistant.open."""
        opened = open_engine(bundle or default_bundle(home), engine)
        held = lease(opened.chat.bundle)  # While it answers, no update overwrites the slot it reads.
        local = cls(opened, Home.open(home), line)
        local._lease = held
        return local

    @property
    def fingerprint(self) -> str:
        """Engine and base."""
        return f"{self._engine.name}-{self._chat.bundle.base_digest.removeprefix('sha256:')[:12]}"

    def models(self) -> Sequence[Model]:
        """The usual one, the bare base, and one for each line of adapters."""
        manifest = self._chat.bundle.manifest
        base = f"{manifest.name} {manifest.version}"
        mine = Shelf(self._home, self._line).in_use
        lines = {name: line[-1] for name, line in sorted(lines_of(self._home).items()) if line and line[-1]}
        return [
            Model(id="limbeck", words=f"{base}, {f'adapter {mine}' if mine else 'no adapter yet'}"),
            Model(id="limbeck-base", words=f"{base}, no adapter"),
            *(Model(id=f"limbeck:{name}", words=f"{base}, adapter {adapter}") for name, adapter in lines.items()),
        ]

    def pieces(self, ask: Ask, cancelled: Callable[[], bool]) -> Iterator[Piece | End]:
        """See Answering.pieces.

        Raises:
            PromptTooLongError: The prompt leaves no room for an answer.
            Refusal: The schema cannot guide.
            AdapterError: The adapter cannot be worn.
        """
        try:
            for piece in self._writer.pieces(asked_of(ask), key=self._adapter(ask.model), cancelled=cancelled):
                yield from told_of(piece, ask, self._writer.content)
        except SchemaError as cause:
            raise Refusal(400, str(cause), code="schema", param=guided_by(ask)) from cause

    def _adapter(self, model: str) -> str | None:
        """Key of what a model wears; loaded at the first request for it."""
        if model == "limbeck-base":
            return None
        shelf = Shelf(self._home, model.partition(":")[2] or self._line)
        name = shelf.in_use
        if name is None:
            return None
        with self._lock:
            if name not in self._worn:
                adapter = shelf.load(base_digest=self._chat.bundle.base_digest)
                if adapter is None:
                    return None
                self._worn[name] = self._engine.wear(adapter)
            return self._worn[name]
