"""Figures of a manifest, against counts by hand; what cannot be used is in none of them."""

from collections.abc import Callable

from asr.data.manifest import Utterance
from asr.data.statistics import examine
from asr.data.tokenizer import CharacterTokenizer

Make = Callable[..., Utterance]


def test_figures_are_those_of_usable_utterances(make_utterance: Make) -> None:
    found = [
        make_utterance("a", 0.5, text="one", speaker="ann"),
        make_utterance("b", 1.0, text="two one", speaker="bob"),
        make_utterance("c", 3.0, text="o", speaker="bob"),
        make_utterance("d", 1.0, sample_rate=8000, text="zebra", speaker="eve"),
    ]
    summary, refused = examine(found, 16000, None, resample=False)
    assert (summary.utterances, summary.speakers, summary.characters, summary.alphabet) == (3, 2, 11, " enotw")
    assert (summary.shortest_seconds, summary.median_seconds, summary.longest_seconds) == (0.5, 1.0, 3.0)
    assert summary.hours == 4.5 / 3600
    assert summary.characters_per_second == 11 / 4.5
    assert summary.tokens_per_second is None
    assert [(each.utterance_id, each.reason.split(";")[0]) for each in refused] == [
        ("d", "is sampled at 8000 Hz, but data.sample_rate is 16000 Hz")
    ]


def test_a_tokenizer_counts_and_refuses(make_utterance: Make) -> None:
    tokenizer = CharacterTokenizer(alphabet=" abc", case="lower")
    found = [
        make_utterance("a", 0.5, text="A b"),
        make_utterance("b", 0.5, text="dad"),
        make_utterance("a", 0.5, text="c"),
    ]
    summary, refused = examine(found, 16000, tokenizer, resample=False)
    assert (summary.tokens, summary.tokens_per_second) == (3, 6.0)
    assert ["'d' (U+0064)" in refused[0].reason, "already that of" in refused[1].reason] == [True, True]


def test_nothing_usable(make_utterance: Make) -> None:
    summary, refused = examine([make_utterance(sample_rate=8000)], 16000, None, resample=False)
    assert (summary.utterances, summary.hours, summary.characters_per_second, len(refused)) == (0, 0.0, 0.0, 1)
