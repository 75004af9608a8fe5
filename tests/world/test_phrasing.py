"""The grammar of instructions: enough of them, and test ones are new combinations of known words."""

from __future__ import annotations

import random
import re

import pytest

from opensama.world.phrasing import GRAMMAR, as_sentence, clause, expand, join, phrasings


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+|\{\w+\}|[,;]", text.lower()))


@pytest.mark.parametrize("key", list(GRAMMAR))
def test_test_phrasings_are_new_but_their_words_are_known(key):
    train, test = phrasings(key, "train"), phrasings(key, "test")
    assert len(set(train)) == len(train)
    assert len(set(test)) == len(test)
    assert not set(train) & set(test)
    if key != "two":  # there, two clauses multiply
        assert len(train) >= 12, len(train)
        assert len(test) >= 4, len(test)
    known = words(" ".join(train))
    for phrase in test:
        assert words(phrase) <= known, phrase


@pytest.mark.parametrize("key", [key for key in GRAMMAR if key != "two"])
def test_a_clause_that_joins_is_an_order(key):
    for split in ("train", "test"):
        joining = phrasings(key, split, joins=True)
        assert joining
        assert not any(" should " in text or text.startswith(("there", "I ")) for text in joining)


def test_every_way_through_a_pattern_is_on_one_side():
    assert dict(expand("[a|b] x[| y| z]")) == {
        "a x": "train",
        "a x y": "train",
        "a x z": "test",
        "b x": "train",
        "b x y": "test",
        "b x z": "train",
    }


def test_sentences_are_sentences():
    rng = random.Random(0)
    one = clause(rng, "remove", "train", joins=True, old="red ball")
    two = clause(rng, "recolor", "train", joins=True, old="box", color="blue")
    text = as_sentence(join(rng, "train", one, two))
    assert text[0].isupper()
    assert text.endswith(".")
    assert "  " not in text
