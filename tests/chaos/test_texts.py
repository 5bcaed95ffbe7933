"""Texts come, and are the same, whatever happens to the servers on their way."""

from __future__ import annotations

import random
import re

import pytest

from swarm.errors import BlocksMissing
from tests.chaos.texts import NEW_TOKENS, WAYS, Steps, prompts_of, within
from tests.chaos.yard import HURTS, LINK_HURTS, Yard

DEADLINE = 90.0
"""Seconds for a text whatever happens: several servers may have to be given up, one after another."""

STORIES = [
    ("streams", "slow", 4, False),
    ("stream", "kill", 7, False),
    ("beams", "reset", 11, True),
    ("generate", "freeze", 9, False),
    ("batch", "flipped", 0, False),
    ("session", "restart", 10, True),
    ("clients", "behead", 5, True),
]


def tell(swarm: Yard, way: str, hurts: dict[int, str], *, reuse: bool, seed: int, prompts: int) -> None:
    """Make texts, hurt somebody on their way at these steps, and compare with the undisturbed ones."""
    model, rng, told = swarm.client(reuse_prefixes=reuse), random.Random(seed), list[str]()
    expected = swarm.expected(model, way, prompts)

    def hurting(how: str) -> None:
        name = swarm.name(model, rng, linked=how in LINK_HURTS)
        told.append(f"{how} {name}")
        swarm.hurt(name, how)

    missing, deserted = "", set[int]()
    steps = Steps({at: lambda how=how: hurting(how) for at, how in hurts.items()})
    try:
        made, seconds = within(DEADLINE, lambda: WAYS[way](model, prompts_of(prompts, model.config.vocab_size), steps))
    except BlocksMissing as error:
        made, seconds, missing, deserted = [], 0.0, str(error), swarm.deserted()
    finally:
        swarm.soothe()
    if missing:  # two storms may leave nobody who holds some blocks: then these are named, and no others
        print(f"{way}, {told} at {list(hurts)}: {missing}")
        named = re.findall(r"(\d+):(\d+)", missing.partition(" of ")[0])
        assert named and len(hurts) > 1 and all(set(range(int(start), int(end))) <= deserted for start, end in named), (
            deserted
        )
        return
    mends = model._latest.num_mends
    print(f"{way}, {told} at {list(hurts)}: {seconds:.2f} s, longest pause {steps.pause():.2f} s, {mends} mends")
    assert len(told) == len(hurts), "the text was over before the servers were hurt"
    assert made == expected[: len(made)]
    if way == "stream":  # whoever was hurt was on its way; a slow or corrected hop need not be replaced
        assert steps.failovers == [mends] and (mends or not {"kill", "freeze"} & set(hurts.values()))


@pytest.mark.slow
@pytest.mark.parametrize(("way", "how", "at", "reuse"), STORIES)
def test_a_text_is_the_same_whatever_happens_on_its_way(swarm: Yard, way: str, how: str, at: int, reuse: bool) -> None:
    swarm.settle(but=1)
    tell(swarm, way, {at: how}, reuse=reuse, seed=STORIES.index((way, how, at, reuse)), prompts=0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1000, 1240))
def test_texts_are_the_same_in_any_storm(swarm: Yard, seed: int) -> None:
    rng = random.Random(seed)
    swarm.settle()
    hurts = {rng.randrange(NEW_TOKENS - 4): rng.choice(sorted(HURTS)) for _ in range(rng.choice([1, 1, 1, 2]))}
    print(f"seed {seed}")
    tell(swarm, rng.choice(sorted(WAYS)), hurts, reuse=rng.random() < 0.5, seed=seed, prompts=seed % 4)
