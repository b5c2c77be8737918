"""A notes app in a terminal: say what to keep, mend what it made of it, and it learns from that.

    python examples/4_notes_app.py                  talk; `help` says what can be typed
    python examples/4_notes_app.py --script FILE    the same lines from a file; without it from stdin

Each request becomes a note, a reminder or an event: the model can write nothing else, and every open value is words of
the request. What is accepted or mended is remembered, encrypted; what is rejected is never learned from. After NIGHT
answers the app learns one night from them, within the privacy budget. A real app lets `assistant.learn_when_idle()`
choose the hour. Notes and history stay in FOLDER/notes.json, what was learned in FOLDER/home.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from personalize.errors import PersonalizeError
from privacy import PrivacyError
from sdk import Answer, Assistant, Copied
from sdk.bundle import Bundle
from sdk.errors import SdkError
from sdk.tasks import prompt

NIGHT = 20  # Answers that a night learns from; fewer are refused, since noise would drown them.
MOST_TOKENS = 128  # Of an answer: an event's names take about 30, the rest is words of the request.
FORMAT = "notes_app/1"
HELP = """\
TEXT                     made into a note, a reminder or an event, and shown
  y                        keep it        n  throw it away
  note, reminder, event    that kind of thing instead
  FIELD: WORDS             mend a field; without WORDS it is taken out
notes, history           what is kept; what was said, and how each answer was taken
night                    learn now from what was kept and mended
help, quit"""


class Entry(BaseModel):
    """What the app keeps."""

    model_config = ConfigDict(extra="forbid")

    def words(self) -> str:
        """As the model writes it: fields without a value are left out."""
        return self.model_dump_json(exclude_none=True)


class Note(Entry):
    """Something to keep."""

    action: Literal["take_note"]
    text: Copied


class Reminder(Entry):
    """Something to be reminded of."""

    action: Literal["set_reminder"]
    about: Copied
    day: Copied | None = None
    time: Copied | None = None


class Event(Entry):
    """Something for the calendar."""

    action: Literal["create_event"]
    title: Copied
    day: Copied | None = None
    time: Copied | None = None
    place: Copied | None = None


class AnyEntry(RootModel[Annotated[Note | Reminder | Event, Field(discriminator="action")]]):
    """One of the three; the names and fields are those that the shipped student was trained on."""


KINDS: dict[str, type[Entry]] = {"note": Note, "reminder": Reminder, "event": Event}


@dataclass
class Proposal:
    """What the model made of a request, while the person has not said what they think of it."""

    request: str
    answer: Answer
    entry: Entry


@dataclass
class App:
    """The notes, and the assistant that makes them."""

    assistant: Assistant
    file: Path
    console: Console
    proposal: Proposal | None = None
    notes: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, str]] = field(default_factory=list)
    fresh: int = 0
    """Answers that no night has learned from yet."""

    def restore(self) -> None:
        """Go on with what was kept."""
        if not self.file.exists():
            return
        try:
            kept = json.loads(self.file.read_text(encoding="utf-8"))
            self.notes, self.history, self.fresh = kept["notes"], kept["history"], kept["fresh"]
        except (ValueError, KeyError, TypeError) as damaged:
            raise SystemExit(f"{self.file} holds no notes ({damaged!r:.60}); move it away to begin anew") from damaged

    def save(self) -> None:
        """Keep everything, in one step."""
        kept = {"format": FORMAT, "notes": self.notes, "history": self.history, "fresh": self.fresh}
        draft = self.file.with_suffix(".new")
        draft.write_text(json.dumps(kept, ensure_ascii=False, indent=1), encoding="utf-8")
        draft.replace(self.file)

    def take(self, line: str) -> None:
        """One line of the person: an answer to what is shown, a command, or a new request."""
        commands = {"notes": self.show_notes, "history": self.show_history, "night": self.learn, "help": self.help}
        if line in commands:
            commands[line]()
        elif self.proposal is None:
            self.propose(line, AnyEntry)
        elif line in ("y", "n"):
            self.judge(self.proposal, accepted=line == "y")
        elif line in KINDS:
            self.propose(self.proposal.request, KINDS[line])
        elif ":" in line:
            self.mend(self.proposal, *(part.strip() for part in line.split(":", 1)))
        else:
            self.say("y keeps it, n throws it away; `help` says what else can be typed")

    def propose(self, request: str, kind: type[BaseModel]) -> None:
        """Let the model make something of a request, of any kind or of the one that the person has said; show it."""
        made = self.assistant.answer(
            prompt("action", request), schema=kind, copy_from=request, max_new_tokens=MOST_TOKENS
        )
        if made.value is None:
            self.say("no whole answer came; say it in fewer words")
            return
        first = self.proposal.answer if self.proposal else made  # Feedback is about what was shown first.
        entry = made.value.root if isinstance(made.value, AnyEntry) else made.value
        self.proposal = Proposal(request, first, entry)
        self.show(entry, f"{made.confidence:.2f} sure, {made.timing.total_s:.1f} s")

    def mend(self, shown: Proposal, name: str, words: str) -> None:
        """Change one field, by the type's own rules."""
        try:
            changed = type(shown.entry).model_validate({**shown.entry.model_dump(), name: words or None})
        except ValidationError as wrong:
            self.say(f"{name}: {wrong.errors(include_url=False)[0]['msg']}")
            return
        self.proposal = Proposal(shown.request, shown.answer, changed)
        self.show(changed, "mended")

    def judge(self, shown: Proposal, *, accepted: bool) -> None:
        """Keep it or not, and remember how the answer was taken: this is what a night learns from."""
        words = shown.entry.words()
        if not accepted:
            how = "rejected"
            self.assistant.feedback(shown.answer, "rejected")
        elif shown.entry == _as_shown(shown.answer):
            how = "accepted"
            self.assistant.feedback(shown.answer, "accepted")
        else:
            how = "edited"
            self.assistant.feedback(shown.answer, "edited", words)
        if accepted:
            self.notes.append(shown.entry.model_dump(exclude_none=True))
            self.fresh += 1
        self.history.append({"said": shown.request, "made": shown.answer.text, "kept": words, "how": how})
        self.proposal = None
        self.save()
        self.say(f"{how}; {self.fresh} of {NIGHT} answers for the next night")
        if self.fresh >= NIGHT:
            self.learn()

    def learn(self) -> None:
        """One night; whatever is refused, the adapter before goes on answering."""
        try:
            report = self.assistant.learn()
        except (PersonalizeError, PrivacyError) as refused:
            self.say(str(refused))
            return
        self.fresh = 0
        self.save()
        self.console.print(report.summary(), markup=False)

    def show(self, entry: Entry, beside: str) -> None:
        """One entry with its fields."""
        self.say(f"{type(entry).__name__} ({beside})")
        table = Table(show_header=False)
        for name, value in entry.model_dump(exclude={"action"}, exclude_none=True).items():
            table.add_row(name, escape(value))
        self.console.print(table)

    def show_notes(self) -> None:
        """What is kept."""
        table = Table("what", "words", title=f"{len(self.notes)} kept")
        for note in self.notes:
            values = [f"{name} {value}" for name, value in note.items() if name != "action"]
            table.add_row(note["action"], escape(", ".join(values)))
        self.console.print(table)

    def show_history(self) -> None:
        """What was said, and how each answer was taken."""
        table = Table("said", Column("the model made", overflow="fold"), "taken")
        for one in self.history:
            table.add_row(*map(escape, (one["said"], one["made"], one["how"])))
        self.console.print(table)

    def help(self) -> None:
        """What can be typed."""
        self.say(HELP)

    def say(self, words: str) -> None:
        """Plain text, whatever stands in it."""
        self.console.print(words, markup=False, highlight=False)


def _as_shown(answer: Answer) -> Entry:
    entry: Entry = AnyEntry.model_validate_json(answer.text).root
    return entry


def lines(script: Path | None, console: Console) -> Iterator[str]:
    """What the person types, or what a script holds, without blank lines."""
    if script is None and sys.stdin.isatty():
        while True:
            try:
                yield console.input("> ").strip()
            except (EOFError, KeyboardInterrupt):
                return
    with sys.stdin if script is None else script.open(encoding="utf-8") as opened:
        yield from (line.strip() for line in opened)


def existing(file: str) -> Path:
    """A file that is there."""
    if not Path(file).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {file}")
    return Path(file)


def main() -> None:
    """Talk until `quit`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("notes"), help="where notes and learning are kept")
    parser.add_argument("--base", type=Path, help="a bundle other than the shipped one")
    parser.add_argument("--script", type=existing, help="lines to take in place of typing")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    try:
        bundle = Bundle.open(asked.base) if asked.base else None
        app = App(Assistant.open(asked.folder / "home", bundle=bundle), asked.folder / "notes.json", Console())
    except SdkError as refused:
        raise SystemExit(str(refused)) from refused
    app.restore()
    for line in lines(asked.script, app.console):
        if line == "quit":
            break
        if line:
            try:
                app.take(line)
            except SdkError as refused:  # One clear line; the app goes on.
                app.say(str(refused))


if __name__ == "__main__":
    main()
