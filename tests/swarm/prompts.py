"""Twenty prompts of real text: prose, code, lists, numbers, several languages; the last four are long."""

from __future__ import annotations

_TRAVELLER = """\
The road out of the valley climbs for an hour before it reaches the first houses of the pass. In winter nobody
uses it; the snow lies too deep, and the few people who live up there stay until the thaw with what they have put
by in autumn: potatoes, smoked meat, flour, dried apples, and wood stacked to the eaves. In spring, when the water
comes down, the road itself becomes a brook, and the mail is brought by a boy with a mule who knows the old path
along the ridge. I first went there in April, against all advice, with a pack that was too heavy and boots that
were too light, and I remember that the boy laughed when he saw me and said nothing until we had passed the second
bridge. Then he stopped, pointed at the clouds over the northern wall, and explained in slow and careful sentences
that we had perhaps two hours before the weather would turn. We walked faster after that. The mule, who had his own
opinions about clouds, walked faster still, and it was he who found the hut, a low thing of stone with a roof of
slates, half sunk into the slope. Inside there was a stove, a table, and an old woman who asked us only whether we
had brought salt. She had lived there, she told us later, for"""

_REPORT = """\
Minutes of the meeting of the harbour committee, third of March.
Present: the chair, the secretary, the harbour master, two members of the council, the engineer.
1. The minutes of the last meeting were read and approved without changes.
2. The engineer reported on the northern pier. Of the 48 piles, 31 were inspected by divers in February. Nine show
wear beyond the limit of 20 millimetres, four of them beyond 35 millimetres. The engineer recommends to replace the
four at once and to inspect the remaining 17 before the end of May. Estimated cost: 112,000 for the four piles,
18,500 for the inspection. The council members asked whether the ferry can go on using the pier. The engineer
answered that it can, at reduced speed, as long as the wind stays below force seven.
3. The harbour master reported that dues collected in January and February amount to 64,210, that is 7.5 percent more
than in the same months of last year. Most of the growth comes from the two new fishing boats.
4. The secretary read a letter from the sailing club, which asks for eight more berths on the eastern side. The
committee found that the water there is too shallow at low tide for boats with a draught of more than 1.2 metres, and
decided to offer the club five berths on the southern quay instead.
5. Summary of decisions:
-"""

_PROGRAM = '''\
"""A small inventory: items come in, items go out, and nobody may take what is not there."""

from dataclasses import dataclass, field


class NotEnough(Exception):
    """More was asked for than there is."""


@dataclass
class Item:
    name: str
    price: float
    count: int = 0


@dataclass
class Inventory:
    items: dict[str, Item] = field(default_factory=dict)

    def add(self, name: str, count: int, price: float) -> None:
        """Put `count` pieces on the shelf; the latest price counts for all of them."""
        item = self.items.setdefault(name, Item(name, price))
        item.count += count
        item.price = price

    def take(self, name: str, count: int) -> float:
        """Take `count` pieces and return what they cost together."""
        item = self.items.get(name)
        if item is None or item.count < count:
            raise NotEnough(f"{name}: {count} wanted, {item.count if item else 0} there")
        item.count -= count
        return count * item.price

    def total(self) -> float:
        """Return what all the items are worth."""
'''

_DIALOGUE = """\
Visitor: Good morning. Is this the office for lost things?
Clerk: It is. What have you lost?
Visitor: An umbrella. Black, with a wooden handle. I left it on the number nine tram on Tuesday.
Clerk: We have forty-one black umbrellas this week. Was there anything special about it?
Visitor: One of the ribs was bent, and there was a name on the handle, but it isn't mine.
Clerk: Whose name was it?
Visitor: I never found out. I bought it at a market, years ago. It says "E. Lindqvist", burnt into the wood, very
small letters.
Clerk: Then I have good news and bad news. The good news is that we have it here, on the third shelf.
Visitor: And the bad news?
Clerk: A lady came by yesterday and asked for an umbrella with exactly that name on it. She said that she had lost it
eleven years ago, on the same tram. She is coming back at noon to fetch it.
Visitor: That is in ten minutes.
Clerk: Yes. I thought that you might like to wait, and settle it between the two of you. There is coffee in the
corridor, though I can't recommend it.
Visitor: What was she like?
Clerk:"""

PROMPTS: tuple[str, ...] = (
    "The capital of France is",
    "Once upon a time, in a small village by the sea, there lived",
    "def fibonacci(n):\n    ",
    "1, 1, 2, 3, 5, 8, 13, 21,",
    "Shopping list:\n- milk\n- eggs\n- bread\n-",
    "Water boils at 100 degrees Celsius because",
    "Der schnellste Weg von Berlin nach Hamburg ist",
    "Il était une fois une petite fille qui",
    "La primavera en las montañas es una época en la que",
    "SELECT name, COUNT(*) FROM orders WHERE",
    "Q: What is the difference between a virus and a bacterium?\nA:",
    '{"name": "Ada", "born": 1815, "fields": ["mathematics",',
    "To make a simple tomato soup, first",
    "If 3x + 7 = 22, then x =",
    "The three laws of motion, stated by Isaac Newton, are:\n1.",
    "Dear Mr. Harrison,\n\nThank you for your letter of",
    _TRAVELLER,
    _REPORT,
    _PROGRAM,
    _DIALOGUE,
)
"""Some are shorter than a page of the KV cache, some longer than a chunk of a prefill."""

FEW = (0, 2, 6, 11, 13, 17)
"""Prose, code, another language, data, numbers, and one long prompt: where fewer must do."""
