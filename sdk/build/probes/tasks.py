"""Templates of device tasks in, an instruction with its structured or short reply out.

A prompt names the keys, so that the answer can be told from the prompt alone. JSON is spaced as json.dumps spaces it.
"""

from random import Random

from sdk.build.probes.lexicon import PROBE_WORDS, REHEARSAL_WORDS
from sdk.build.probes.templates import Text, Words, sample_texts

__all__ = ["probes", "rehearsal"]

PROBE_TASK_WORDS: Words = {
    **PROBE_WORDS,
    "number": ["10", "20", "25", "40", "45", "90"],
    "clock": ["7:30|07:30", "8:15|08:15", "9:45|09:45", "6:20|06:20"],
    "dish": ["pasta", "rice", "eggs", "tea", "pizza"],
    "song": ["Blue Moon", "Yesterday", "Summertime", "Imagine", "Moon River"],
    "app": ["maps", "calendar", "camera", "notes"],
    "event": ["lunch", "a meeting", "a haircut", "dinner", "a workout"],
    "level": ["30", "50", "70", "80"],
}
REHEARSAL_TASK_WORDS: Words = {
    **REHEARSAL_WORDS,
    "number": ["5", "12", "15", "30", "35", "60"],
    "clock": ["5:10|05:10", "4:50|04:50", "3:35|03:35", "2:05|02:05"],
    "dish": ["beans", "cake", "potatoes", "coffee", "noodles"],
    "song": ["Hey Jude", "Hallelujah", "Waterloo", "Autumn Leaves", "Stand by Me"],
    "app": ["mail", "music", "weather", "browser"],
    "event": ["a checkup", "breakfast", "a call", "a lesson", "a picnic"],
    "level": ["20", "40", "60", "90"],
}

PROBE_TEMPLATES = [
    Text(
        "JSON with action, minutes, label: set a timer for {number} minutes for the {dish}.",
        '{"action": "timer", "minutes": {number}, "label": "{dish}"}',
    ),
    Text("JSON with action, time: wake me up at {clock:0} in the morning.", '{"action": "alarm", "time": "{clock:1}"}'),
    Text(
        "JSON with title, day, time: {event} with {name} on {day} at {clock:0} in the morning.",
        '{"title": "{event} with {name}", "day": "{day}", "time": "{clock:1}"}',
    ),
    Text(
        "JSON with action, to, text: tell {name} that I will be {number} minutes late.",
        '{"action": "message", "to": "{name}", "text": "I will be {number} minutes late."}',
    ),
    Text(
        "JSON with action, room, state: turn on the light in the {room}.",
        '{"action": "light", "room": "{room}", "state": "on"}',
    ),
    Text("JSON with action, song: play {song}.", '{"action": "play", "song": "{song}"}'),
    Text(
        "JSON with action, place, day: what will the weather be in {town} on {day}?",
        '{"action": "weather", "place": "{town}", "day": "{day}"}',
    ),
    Text("JSON with action, place: take me to {town}.", '{"action": "navigate", "place": "{town}"}'),
    Text(
        "JSON with action, items: add {fruit} and {food} to my list.",
        '{"action": "add", "items": ["{fruit}", "{food}"]}',
    ),
    Text("JSON with action, app: open {app}.", '{"action": "open", "app": "{app}"}'),
    Text(
        "JSON with action, percent: set the brightness to {level} percent.",
        '{"action": "brightness", "percent": {level}}',
    ),
    Text("Who should be called? Please call {name} on {day}.", "{name}"),
    Text("Short reply to {name}: can you bring {food} on {day}?", "Sure, I will bring {food} on {day}."),
    Text("Title for this note: buy {fruit} and {food} for {name}.", "Shopping for {name}"),
    Text("When is it? {name} has {event} on {day} at {clock:0}.", "{day} at {clock:0}"),
]

REHEARSAL_TEMPLATES = [
    Text(
        "Fill the keys intent, duration, for: I need {number} minutes for the {dish}.",
        '{"intent": "countdown", "duration": "{number} min", "for": "{dish}"}',
    ),
    Text("Fill the keys intent, at: get me out of bed at {clock:0} a.m.", '{"intent": "wake_up", "at": "{clock:1}"}'),
    Text(
        "Fill the keys what, who, when: put {event} with {name} in the calendar for {day}.",
        '{"what": "{event}", "who": "{name}", "when": "{day}"}',
    ),
    Text(
        "Fill the keys intent, person, body: write to {name} that I am in {town} now.",
        '{"intent": "send", "person": "{name}", "body": "I am in {town} now."}',
    ),
    Text(
        "Fill the keys device, where, power: switch the fan in the {room} off.",
        '{"device": "fan", "where": "{room}", "power": "off"}',
    ),
    Text("Fill the keys intent, title: I want to hear {song}.", '{"intent": "music", "title": "{song}"}'),
    Text(
        "Fill the keys intent, city, date: will {town} get {weather} on {day}?",
        '{"intent": "forecast", "city": "{town}", "date": "{day}"}',
    ),
    Text("Fill the keys intent, goal: how do I get to {town} by car?", '{"intent": "route", "goal": "{town}"}'),
    Text(
        "Fill the keys list, new: I need {fruit} and also {food}.",
        '{"list": "groceries", "new": ["{fruit}", "{food}"]}',
    ),
    Text("Fill the keys intent, name: start {app} please.", '{"intent": "launch", "name": "{app}"}'),
    Text("Fill the keys setting, value: volume at {level}.", '{"setting": "volume", "value": {level}}'),
    Text("Answer {name} politely: could you send me {work}?", "Of course, {name}, here is {work}."),
    Text("Decline politely: {name} invites you to {event} on {day}.", "Thank you, {name}, but {day} does not suit me."),
    Text(
        "Summarize: {name} lost the {thing} in {town} and found it again on {day}.",
        "{name} lost and found the {thing}.",
    ),
    Text("Where was it? {name} saw the {thing} in the {room}.", "In the {room}"),
    Text("Pick a folder for this file: {work} for {town}, {month}.", "{town}/{month}"),
]

PROBE_COUNT = 165
REHEARSAL_COUNT = 170


def probes(rng: Random) -> list[Text]:
    """Make the tasks of the gate."""
    return sample_texts(PROBE_TEMPLATES, PROBE_TASK_WORDS, PROBE_COUNT, rng)


def rehearsal(rng: Random) -> list[Text]:
    """Make tasks of the same sorts with other keys, other wording and other words."""
    return sample_texts(REHEARSAL_TEMPLATES, REHEARSAL_TASK_WORDS, REHEARSAL_COUNT, rng)
