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
from sdk.device.chat import Chat
from sdk.device.engines.protocol import Engine, Track
from sdk.device.engines.torch_engine import TorchEngine
from sdk.device.runtime import Runtime
from sdk.device.server.answering import Ask, End, Model, Piece
from sdk.device.server.conversation import conversation
from sdk.device.server.grammar import Guide, Pieces
from sdk.device.server.writing import Writing
from sdk.device.slots import lease
from sdk.errors import PromptTooLongError

__all__ = ["Local"]

KEPT = 4  # Tracks kept for later prompts.
KEPT_TOKENS = 4096  # Of all of them together: about 190 MB at 46 kB a token.


class Local:
    """The home's models on one engine."""

    def __init__(self, engine: Engine, chat: Chat, home: Home, line: str | None = None) -> None:
        """Answer with `engine`.

        Args:
            engine: The loaded base.
            chat: The same bundle's text side.
            home: Where the adapters are.
            line: Whose adapter `limbeck` wears; None is the line that was chosen last.
        """
        self._engine, self._chat, self._home, self._line = engine, chat, home, line
        self._pieces = Pieces(chat.tokenizer)
        self._kept: list[Track] = []
        self._worn: dict[str, str] = {}
        self._lock = threading.Lock()
        self._lease: object = None

    @classmethod
    def open(cls, home: Path | None = None, *, bundle: Bundle | None = None, line: str | None = None) -> "Local":
        """Open the base model and the home; arguments and errors as Assistant.open."""
        runtime = Runtime.open(bundle or default_bundle(home))
        held = lease(runtime.bundle)  # While it answers, no update overwrites the slot it reads.
        local = cls(TorchEngine(runtime), Chat.open(runtime.bundle), Home.open(home), line)
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
        prompt = self._chat.encode(conversation(ask))
        room = self._engine.context_tokens - len(prompt)
        if room < 1:
            raise PromptTooLongError(
                prompt_tokens=len(prompt), answer_tokens=1, context_tokens=self._engine.context_tokens
            )
        guide = Guide.of(ask, self._pieces)
        track = self._track(prompt, self._adapter(ask.model))
        try:
            writing = Writing(ask, track, self._pieces, self._chat.stop_tokens, guide, cancelled)
            yield from writing.run(prompt, min(ask.most_tokens, room))
        except BaseException:
            track.close()
            raise
        self._keep(track)

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

    def _track(self, prompt: list[int], adapter: str | None) -> Track:
        """A track that knows as much of the prompt's beginning as any that is kept."""
        with self._lock:
            known = [(_shared(track.tokens, prompt), track) for track in self._kept if track.adapter == adapter]
            length, best = max(known, key=lambda each: each[0], default=(0, None))
            if best is not None and length:
                self._kept.remove(best)
                best.rewind(length)
                return best
        return self._engine.begin(adapter)

    def _keep(self, track: Track) -> None:
        with self._lock:
            self._kept.append(track)
            while len(self._kept) > KEPT or sum(len(each.tokens) for each in self._kept) > KEPT_TOKENS:
                self._kept.pop(0).close()


def _shared(known: Sequence[int], prompt: Sequence[int]) -> int:
    """Tokens that both begin with; the prompt's last one is always taken anew, for its scores."""
    most = min(len(known), len(prompt) - 1)
    return next((place for place in range(most) if known[place] != prompt[place]), most)
