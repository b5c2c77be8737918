"""Tables of common knowledge in, short questions with one-sentence answers out.

Rules: a fact stands once, in one of the two halves; the halves are worded differently. A line at the margin is
"question | reply" with {s} for the subject and {a} for the answer; the rows below it are "subject=answer; …".
"""

from random import Random

from sdk.build.probes.templates import Text

__all__ = ["probes", "rehearsal"]

PROBE_TABLES = """
What is the capital of {s}? | The capital of {s} is {a}.
    France=Paris; Japan=Tokyo; Spain=Madrid; Egypt=Cairo; Russia=Moscow; Greece=Athens; Portugal=Lisbon;
    Ireland=Dublin; Austria=Vienna; Peru=Lima; Kenya=Nairobi; Poland=Warsaw
What is the opposite of {s}? | The opposite of {s} is {a}.
    hot=cold; tall=short; early=late; rich=poor; empty=full; loud=quiet; heavy=light; north=south; open=closed;
    soft=hard; true=false; win=lose
What do you call a young {s}? | A young {s} is called a {a}.
    dog=puppy; cat=kitten; cow=calf; sheep=lamb; horse=foal; bear=cub; duck=duckling
Which month comes after {s}? | After {s} comes {a}.
    January=February; March=April; June=July; August=September; November=December
What is the color of {s}? | The color of {s} is {a}.
    grass=green; the clear sky=blue; a ripe banana=yellow; snow=white; coal=black; blood=red
Finish the sentence: {s} | {s} {a}.
    You cut paper with=scissors; Bread is baked in an=oven; You unlock a door with a=key;
    At night we see the moon and the=stars; A spider has eight=legs; Bees make=honey; Cows give us=milk;
    Fish live in=water; You write on paper with a=pen; When it rains, people carry an=umbrella;
    A clock tells the=time; The sun rises in the=east; Plants grow from=seeds; We hear with our=ears;
    Ice turns into water when it=melts; Trains run on=rails; Money is kept in a=bank;
    Sick people are treated in a=hospital; Letters are put into an=envelope; The heart pumps=blood
How many {s}? | The answer is {a}.
    days are in a week=seven; months are in a year=twelve; minutes are in an hour=sixty;
    legs does a dog have=four; wheels does a bicycle have=two; hours are in a day=twenty-four;
    letters are in the English alphabet=twenty-six; cents are in a dollar=one hundred
Which animal says {s}? | The animal that says {s} is {a}.
    moo=the cow; meow=the cat; quack=the duck; oink=the pig; baa=the sheep
Who {s}? | {a} {s}.
    flies a plane=a pilot; teaches children at school=a teacher; puts out fires=a firefighter;
    grows wheat=a farmer; cuts hair=a barber; fixes teeth=a dentist; cooks in a restaurant=a chef;
    paints pictures=an artist; repairs cars=a mechanic; brings the mail=a mail carrier
What is a {s} made of? | A {s} is made of {a}.
    window=glass; book=paper; sweater=wool; tire=rubber; snowman=snow; nail=iron
What is the past tense of {s}? | The past tense of {s} is {a}.
    go=went; see=saw; eat=ate; buy=bought; write=wrote; think=thought; swim=swam; teach=taught; bring=brought;
    fall=fell
What is the plural of {s}? | The plural of {s} is {a}.
    child=children; mouse=mice; foot=feet; man=men; knife=knives; city=cities; box=boxes
In which country is {s}? | {s} is in {a}.
    Berlin=Germany; Rome=Italy; Beijing=China; Delhi=India; Toronto=Canada; Sydney=Australia; Istanbul=Turkey;
    Rio de Janeiro=Brazil
What is {s}? | The result of {s} is {a}.
    2 plus 3=5; 4 plus 4=8; 10 minus 4=6; 3 times 3=9; 7 plus 5=12; 20 minus 9=11; 5 times 6=30; half of 50=25
Which sense do you use to {s}? | To {s}, you use {a}.
    look at a picture=sight; listen to a song=hearing; sniff a rose=smell
Where do you {s}? | You {s} {a}.
    borrow books=in a library; watch a film=in a cinema; board a plane=at an airport;
    buy medicine=in a pharmacy; see lions in cages=in a zoo; swim in a city=in a pool
What do you need to {s}? | To {s}, you need {a}.
    dig a hole=a shovel; drive a nail=a hammer; sweep the floor=a broom; eat soup=a spoon;
    see far stars=a telescope; sew on a button=a needle; measure fever=a thermometer; boil tea water=a kettle
Which season is {s}? | The season that is {s} is {a}.
    the coldest=winter; the hottest=summer
Which planet {s}? | The planet is {a}.
    do we live on=Earth; is called the red planet=Mars; is closest to the sun=Mercury
What language do most people speak in {s}? | Most people in {s} speak {a}.
    Mexico=Spanish; Brazil=Portuguese; Egypt=Arabic; Austria=German
"""

REHEARSAL_TABLES = """
Name the capital city of {s}. | {a} is the capital city of {s}.
    Norway=Oslo; Sweden=Stockholm; Hungary=Budapest; Cuba=Havana; Thailand=Bangkok; Belgium=Brussels;
    Finland=Helsinki; Chile=Santiago; Denmark=Copenhagen; Iraq=Baghdad; South Korea=Seoul;
    the Czech Republic=Prague; Ukraine=Kyiv; Romania=Bucharest
Give a word that means the reverse of {s}. | A word for the reverse of {s} would be {a}.
    big=small; young=old; fast=slow; wet=dry; strong=weak; clean=dirty; sweet=sour; near=far; up=down;
    inside=outside; love=hate; begin=end; narrow=wide; brave=afraid
How is the baby of a {s} called? | The baby of a {s} is known as a {a}.
    goat=kid; pig=piglet; swan=cygnet; kangaroo=joey; frog=tadpole; hen=chick
Today is {s}. What day is tomorrow? | Tomorrow is {a}.
    Monday=Tuesday; Wednesday=Thursday; Friday=Saturday; Saturday=Sunday; Sunday=Monday; Tuesday=Wednesday;
    Thursday=Friday
Tell me the usual color of {s}. | Usually {s} is {a}.
    an orange=orange; chocolate=brown; an elephant=gray; a flamingo=pink; an eggplant=purple
Complete: {s} | {s} {a}.
    A place where planes are kept is a=hangar; You brush your teeth with a=toothbrush; Birds build=nests;
    A carpenter works with=wood; The king lives in a=castle; A person who cannot see is=blind;
    We breathe with our=lungs; In autumn the trees lose their=leaves; A shepherd looks after his=flock;
    Ships stop at a=harbor; Wine is made from=grapes; Cheese and butter are kept cold in the=refrigerator;
    You take photographs with a=camera; A desert is covered with=sand; After the lightning comes the=thunder;
    The study of the stars is called=astronomy; A story about one's own life is an=autobiography
Give the number of {s}. | The number of {s} is {a}.
    sides of a triangle=three; fingers on one hand=five; legs of an insect=six; players in a soccer team=eleven;
    planets around our sun=eight; years in a decade=ten; weeks in a year=fifty-two
Name the animal that {s}. | It is {a} that {s}.
    barks=a dog; roars and has a mane=a lion; hops and has a pouch=a kangaroo; has a long trunk=an elephant;
    has black and white stripes=a zebra; spins webs=a spider; has a very long neck=a giraffe;
    carries its house on its back=a snail
Name the job of somebody who {s}. | Somebody who {s} is {a}.
    bakes bread=a baker; defends people in court=a lawyer; writes news=a journalist;
    designs houses=an architect; treats sick animals=a vet; sells meat=a butcher; serves food=a waiter;
    makes clothes=a tailor; looks after patients=a nurse; plays in films=an actor
Tell me the material of {s}. | The material of {s} is {a}.
    a brick=clay; jeans=cotton; a candle=wax; a wedding ring=gold; shoes=leather
Put this in the past: {s} | In the past: {a}
    I run=I ran; I sing=I sang; I fly=I flew; I keep=I kept; I give=I gave; I know=I knew; I drive=I drove;
    I catch=I caught; I feel=I felt; I speak=I spoke; I lose=I lost; I sleep=I slept
One {s}, and one more? | One {s} and one more are two {a}.
    goose=geese; tooth=teeth; woman=women; wolf=wolves; story=stories; dress=dresses; ox=oxen; shelf=shelves
Work out {s}. | {s} = {a}
    6 + 7=13; 9 + 8=17; 15 - 1=14; 4 x 4=16; 9 x 3=27; 100 - 58=42; 8 x 8=64; 45 + 45=90; 33 - 10=23
Tell me the right place to {s}. | The right place to {s} is {a}.
    see old paintings=a museum; buy fresh bread=a bakery; keep a car=a garage; study for a degree=a university;
    catch a train=a station; pray=a church; sleep on a trip=a hotel
Tell me the right tool to {s}. | The right tool to {s} is {a}.
    cut wood=a saw; turn a screw=a screwdriver; see tiny cells=a microscope; paint a wall=a brush;
    find north=a compass; weigh flour=a scale; dry your hair=a towel; light a dark cave=a flashlight
Name the language that is spoken in {s}. | The language of {s} is {a}.
    Greece=Greek; Poland=Polish; Japan=Japanese; Turkey=Turkish; Sweden=Swedish; Hungary=Hungarian;
    Iceland=Icelandic; Israel=Hebrew
"""


def probes(rng: Random) -> list[Text]:
    """Make the questions of the gate, in shuffled order."""
    return _ask(PROBE_TABLES, rng)


def rehearsal(rng: Random) -> list[Text]:
    """Make questions about other facts, worded differently."""
    return _ask(REHEARSAL_TABLES, rng)


def _ask(tables: str, rng: Random) -> list[Text]:
    texts: list[Text] = []
    question = reply = ""
    for line in tables.strip().splitlines():
        if not line.startswith(" "):
            question, reply = line.split(" | ")
            continue
        for row in line.strip().rstrip(";").split("; "):
            subject, answer = row.split("=")
            said = reply.format(s=subject, a=answer)
            texts.append(Text(question.format(s=subject), said[0].upper() + said[1:]))
    rng.shuffle(texts)
    return texts
