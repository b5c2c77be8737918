"""Sentence templates in, plain modern prose out: notes, news, how-to, letters and small talk."""

from random import Random

from sdk.build.probes.lexicon import PROBE_WORDS, REHEARSAL_WORDS
from sdk.build.probes.templates import Text, sample_texts

__all__ = ["probes", "rehearsal"]

PROBE_TEMPLATES = [
    # Notes.
    Text("Note on the fridge", "We are out of {food}, so please pick some up on the way home."),
    Text("Note to self", "Call the dentist before {hour} and ask whether {day} is still free."),
    Text("Shopping note", "Get {count} {fruit} and some {food}, but only if they look fresh."),
    Text("Note for {name}", "Your {thing} is in the {room}, next to the lamp."),
    Text("Reminder", "The plants in the {room} need water every {day}."),
    Text("Meeting note", "{name} will finish {work} by {day}, and I will check the numbers."),
    # News.
    Text(
        "Local news from {town}", "The bridge was closed on {day} because of {weather} and will open again next week."
    ),
    Text("Weather report for {town}", "Expect {weather} in the morning and clear skies by {hour}."),
    Text("Local news", "The town of {town} will open a new library in {month}."),
    Text("Sports", "The team from {town} won by {count} points after a slow first half."),
    Text("Business news", "A small bakery in {town} has hired {count} more people since {month}."),
    Text("Traffic", "A truck broke down near {town}, and drivers lost about {minutes} minutes."),
    # How-to.
    Text("How to cook {food}", "Heat the pan slowly, add a little oil, and stir for {minutes} minutes."),
    Text("How to wash {fruit}", "Rinse them under cold water and dry them with a clean cloth."),
    Text("How to clean the {room}", "Start at the top, so that the dust falls before you sweep the floor."),
    Text("How to find your {thing}", "Think of the last place where you had it, and look there first."),
    Text("How to prepare {work}", "Write down the main point first, and leave the details for the end."),
    Text("How to start with {hobby}", "Practice for {minutes} minutes a day and do not worry about mistakes."),
    # Letters.
    Text("Dear {name}", "Thank you for the {fruit} you sent us; the children finished them in a day."),
    Text("Letter to my {kin}", "I hope you are well, and that the {weather} has not kept you inside."),
    Text("Email to {name}", "I have read {work} twice, and I think we should talk about it on {day}."),
    Text("Letter to the landlord", "The heating in the {room} has not worked since {day}."),
    Text("Invitation for {name}", "We would be happy if you could join us for dinner on {day} at {hour}."),
    Text("Postcard from {town}", "The food is good, the beds are soft, and we walk a lot."),
    # Small talk.
    Text("How was your weekend, {name1}?", "It was quiet; {name2} came over on {day} and we made {food}."),
    Text("Do you like {hobby}?", "Yes, my {kin} taught me when I was {count}, and I still enjoy it."),
    Text("Nice {weather} today, isn't it?", "I don't mind it, as long as I can stay in the {room}."),
    Text("Have you seen {name} lately?", "Not since {month}, but I heard that the new job is going well."),
    Text("What did your {kin} say?", "Only that the train was late and that we should start without them."),
    Text("Are you coming on {day}?", "I would love to, but I promised my {kin} to help with {work}."),
]

REHEARSAL_TEMPLATES = [
    Text("A line on the board in the {room}", "Whoever took my {thing}: I need it back before {day}."),
    Text("A list for the trip", "Pack the {thing}, a warm coat, and something to read on the train."),
    Text("A message left at the desk", "{name} phoned at {hour} and wants to hear from you about {work}."),
    Text("Kitchen note", "There is {food} left over from {day}; eat it or throw it out."),
    Text("A diary entry in {month}", "I got up late, did some {hobby}, and felt better afterwards."),
    Text("Plan for {day}", "First the bank, then {count} short meetings, and after that I go home."),
    Text("From the paper in {town}", "Heavy {weather} damaged {count} roofs last night, but nobody was hurt."),
    Text("Headline story", "Voters in {town} decided in {month} to keep the old market hall."),
    Text("Community page", "The school of {town} is looking for people who can teach {hobby}."),
    Text("Radio news", "Trains to {town} run {minutes} minutes late because of {weather}."),
    Text("Farm news", "Growers expect fewer {fruit} this year, since {month} was far too dry."),
    Text("Science page", "Researchers asked {count} hundred people how well they sleep, and most said badly."),
    Text("A tip for better {food}", "Use less salt than you think, then taste it again at the table."),
    Text("A tip about {fruit}", "Keep them away from the sun, and they will last for a week."),
    Text(
        "Steps for fixing a door in the {room}",
        "Take out the old screws, fill the holes with glue, and wait {minutes} minutes.",
    ),
    Text("Advice about {hobby}", "Find a friend who enjoys it too, because you will give up less easily."),
    Text("Packing a {thing}", "Wrap it in a shirt and put it in the middle of the bag."),
    Text("Before you send {work}", "Read it aloud once, since the ear finds errors that the eye forgives."),
    Text("My dear {kin}", "The garden is full of {fruit} again, and we think of you often."),
    Text(
        "To the manager of the hotel in {town}", "I left my {thing} in the room and would be glad to have it returned."
    ),
    Text("Hello {name}", "Could you send me {work} again, as I cannot open the file from {day}?"),
    Text("A thank-you card", "Your advice about {hobby} was exactly what I needed, {name}."),
    Text("To our neighbors", "We are having a party on {day}, and it may get loud until {hour}."),
    Text("Greetings from {town}", "It is {minutes} minutes to the sea, and the {food} here is excellent."),
    Text("What are you up to, {name}?", "Nothing much, I am waiting for the {weather} to pass so that I can go out."),
    Text("Did you sleep well?", "Not really; the {weather} woke me at {hour} and I read until morning."),
    Text("Who taught you to make {food}?", "My {kin} did, though I have changed the recipe quite a bit."),
    Text("How is your {kin}?", "Much better now, and already talking about {hobby} again."),
    Text("Where shall we meet, {name}?", "By the fountain at {hour}, unless the {weather} gets any worse."),
    Text("Shall we go to {town} on {day}?", "Good idea, I have wanted to see the market there since {month}."),
]

PROBE_COUNT = 240
REHEARSAL_COUNT = 260


def probes(rng: Random) -> list[Text]:
    """Make the sentences whose loss the gate watches."""
    return sample_texts(PROBE_TEMPLATES, PROBE_WORDS, PROBE_COUNT, rng)


def rehearsal(rng: Random) -> list[Text]:
    """Make sentences of the same sorts, with other templates and other words."""
    return sample_texts(REHEARSAL_TEMPLATES, REHEARSAL_WORDS, REHEARSAL_COUNT, rng)
