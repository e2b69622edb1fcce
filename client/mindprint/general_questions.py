"""General questions of the gate and the evaluation: a fixed set, written for this project and never trained on.

They ask for facts, common sense and small sums. Each has four choices, which are scored as words, not as letters.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GeneralQuestion:
    """A question with its choices and the right one."""

    query: str
    choices: tuple[str, ...]
    right: str


def _set(*rows: tuple[str, str, str]) -> tuple[GeneralQuestion, ...]:
    return tuple(GeneralQuestion(query, tuple(choices.split(" / ")), right) for query, choices, right in rows)


QUESTIONS = _set(
    ("Which of these is an animal?", "spoon / horse / candle / window", "horse"),
    ("What do people use to cut paper?", "scissors / a pillow / a cup / soap", "scissors"),
    ("Which season is the coldest in Norway?", "summer / spring / winter / autumn", "winter"),
    ("What is 3 plus 4?", "5 / 9 / 7 / 12", "7"),
    ("On which continent does Egypt lie?", "Asia / Europe / Australia / Africa", "Africa"),
    ("Where do fish live?", "in water / in trees / in ovens / in books", "in water"),
    ("What does a baker make?", "shoes / bread / clocks / roads", "bread"),
    ("What colour is fresh grass?", "blue / green / purple / orange", "green"),
    ("What is 10 minus 6?", "8 / 3 / 16 / 4", "4"),
    ("Which of these can fly?", "a sparrow / a whale / a snail / a cow", "a sparrow"),
    ("What falls from the clouds when it rains?", "sand / milk / water / stones", "water"),
    ("Which city is the capital of France?", "Madrid / Paris / Vienna / Oslo", "Paris"),
    (
        "What should you wear when it is very cold?",
        "sandals / a swimsuit / a warm coat / a crown",
        "a warm coat",
    ),
    ("How many days does one week have?", "seven / five / ten / twelve", "seven"),
    ("What do you do with a book?", "drink it / read it / plant it / wear it", "read it"),
    ("Which of these is the largest?", "a mouse / a cat / an elephant / a bee", "an elephant"),
    ("What is the opposite of hot?", "loud / cold / fast / round", "cold"),
    ("What is 5 times 2?", "10 / 7 / 3 / 25", "10"),
    ("Who works in a hospital?", "a pilot / a nurse / a farmer / a sailor", "a nurse"),
    ("What do bees make?", "honey / paper / cheese / glass", "honey"),
    ("Which of these is made of metal?", "a sponge / a towel / a nail / a leaf", "a nail"),
    ("Which language is spoken in Brazil by most people?", "Dutch / Greek / Finnish / Portuguese", "Portuguese"),
    ("What happens to ice in the sun?", "it melts / it grows / it burns / it sings", "it melts"),
    ("Which of these do you find in a kitchen?", "a stove / an anchor / a saddle / a tent", "a stove"),
    ("What is half of 20?", "5 / 40 / 10 / 15", "10"),
    ("Which planet do we live on?", "Mars / Earth / Venus / Saturn", "Earth"),
    ("What keeps rain off your head?", "a fork / an umbrella / a pencil / a lamp", "an umbrella"),
    ("What comes after Monday?", "Friday / Sunday / Tuesday / Saturday", "Tuesday"),
    ("With what do we hear?", "our ears / our knees / our hair / our elbows", "our ears"),
    ("Which of these burns easily?", "a rock / dry wood / ice / wet clay", "dry wood"),
    ("A train leaves at 2 o'clock and rides for 3 hours. When does it arrive?", "at 1 / at 3 / at 9 / at 5", "at 5"),
    ("Tom is taller than Ann, and Ann is taller than Ben. Who is the shortest?", "Tom / Ann / Ben / nobody", "Ben"),
)
