"""The measurement of streams: which words have a delay, from which end, and what is counted of a run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asr.decoding.online_words import StreamedWord
from asr.recogniser import load
from distributed.errors import UsageError
from scripts.bench.streaming import Heard, delays, hear, report, row_of, samples_of, spoken_text, word_ends
from scripts.bench.streaming_runs import CHUNKS, runs_of
from scripts.composition.compose import compose
from scripts.composition.evaluation import named_set
from scripts.composition.trained import load_trained
from tests.unit.asr.test_speech_stream import CHUNKED


def word(text: str, emitted: float) -> StreamedWord:
    return StreamedWord(text, 0.0, 0.0, 1.0, emitted)


def test_only_recognised_words_have_a_delay() -> None:
    heard = [word("yes", 0.5), word("oh", 0.9), word("go", 1.5)]
    assert delays("yes no stop go", [0.2, 0.6, 0.9, 1.4], heard) == pytest.approx([0.3, 0.1])
    assert delays("no", [0.2], []) == []
    with pytest.raises(UsageError, match=r"^--aligner: has 1 words in 'yes no'"):
        delays("yes no", [0.2], heard)


def test_the_figures_of_a_run(random_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = random_run("run", *CHUNKED)
    trained, model = load_trained(run, "best", 1), load(run)
    ends = word_ends(trained, "dev")
    usable = named_set(trained, "dev", 1).screened.usable
    references = {each.id: spoken_text(trained, each) for each in usable}
    assert [len(ends[name]) for name in references] == [len(text.split()) for text in references.values()]
    assert all(list(each) == sorted(each) and 0 < each[-1] <= 0.8 for each in ends.values())
    own = {each.id: hear(model, samples_of(trained, each)) for each in usable}
    for each, utterance in zip(own.values(), usable, strict=True):
        assert each.text == model.transcribe(utterance.audio_filepath, alignment=False)[0].text
        assert len(each.computed) == 2 + int((each.seconds - 1e-6) / 0.12), "chunks, and the end"
    perfect = {
        name: Heard(
            text, [word(each, end + 0.25) for each, end in zip(text.split(), ends[name], strict=True)], 1.0, [0.1]
        )
        for name, text in references.items()
    }
    row = row_of(run, model, references, perfect, ends)
    assert (row["wer"], row["chunk_seconds"], row["real_time_factor"]) == pytest.approx((0, 0.12, 0.1))
    assert row["delay"]["p50"] == pytest.approx(row["delay"]["p99"]) == pytest.approx(0.25)
    report([row])
    *_, line = capsys.readouterr().out.splitlines()
    assert " | 120 ms | 0.00 % | " in line
    assert line.endswith(" % | 250 | 250 | 250 | 100.0 | 100.0 | 0.1000 |")
    silent = row_of(run, model, references, dict.fromkeys(references, Heard("", [], 1.0, [0.1])), ends)
    assert silent["delay"] is None
    report([silent])
    assert " | none | none | none | " in capsys.readouterr().out


def test_a_model_of_whole_utterances_writes_at_the_end(
    random_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = random_run("run")
    trained, model = load_trained(run, "best", 1), load(run)
    usable = named_set(trained, "dev", 1).screened.usable
    heard = {each.id: hear(model, samples_of(trained, each)) for each in usable}
    for each, utterance in zip(heard.values(), usable, strict=True):
        assert each.text == model.transcribe(utterance.audio_filepath, alignment=False)[0].text
        assert {word.emitted for word in each.words} <= {each.seconds}
    row = row_of(run, model, {each.id: spoken_text(trained, each) for each in usable}, heard, word_ends(trained, "dev"))
    report([row])
    assert f"| {run} | whole | " in capsys.readouterr().out


def test_every_run_of_the_comparison_is_one_that_can_be_trained() -> None:
    runs = runs_of(8)
    assert list(runs) == ["whole", "chunk-4", "chunk-8", "chunk-16", "chunk-8-delay_penalty", "chunk-8-fastemit"]
    for settings in runs.values():
        config = compose(
            "train", ["experiment=demo", "features.normalise=none", "backend=single", *settings, "name=try"]
        )
        assert config.model.encoder.chunk in (None, *CHUNKS)
