"""Streams: at the end the text, words and times of the whole recording; before it, what will stay of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asr.data.audio import BadUtterance
from asr.decoding.beam import BeamSearch
from asr.decoding.ctc import CtcGreedy
from asr.decoding.fusion import Fusion
from asr.decoding.greedy import Greedy
from asr.decoding.transcript import Transcript
from asr.parts import build
from asr.recogniser import Transcriber, load
from asr.runs.model_folder import load_model, save_model
from asr.speech_stream import SpeechStream
from distributed.errors import UsageError
from tests.unit.asr.recordings import RATE, speech

Run = Callable[..., Path]
CHUNKED = (
    "model=conformer_tiny", "model.encoder.layers=2", "model.encoder.dimension=32", "model.encoder.chunk=3",
    "model.encoder.left_chunks=2", "features.normalise=none",
)  # fmt: skip
KINDS = {
    "lstm": (),
    "stateless": ("model/predictor=stateless", "features.deltas=1", "features.stack=2"),
    "fp64": (
        "features._target_=asr.data.sherpa_features.SherpaLogMel",
        "model.encoder.left_chunks=0",
        "trainer.precision=fp64",
    ),
}


def greedy(run: Path) -> Transcriber:
    return load(run, decode=Greedy(max_symbols=2))


def streamed(stream: SpeechStream, samples: Any, size: int) -> Transcript:
    for start in range(0, len(samples), size):
        stream.accept(samples[start : start + size])
    return stream.final()


def check(found: Transcript, whole: Transcript) -> None:
    assert found.text == whole.text
    assert found.seconds == pytest.approx(whole.seconds)
    assert [(each.text, each.start, each.end) for each in found.words] == [
        (each.text, each.start, each.end) for each in whole.words
    ]
    assert [each.confidence for each in found.words] == pytest.approx(
        [each.confidence for each in whole.words], abs=1e-4
    )


@pytest.mark.parametrize("overrides", KINDS.values(), ids=KINDS)
def test_the_final_text_is_that_of_the_whole_whatever_the_pieces(overrides: tuple[str, ...], random_run: Run) -> None:
    model = greedy(random_run("run", *CHUNKED, *overrides))
    texts = set()
    for seconds in (0.03, 0.5, 1.37):
        samples = speech(seconds, seed=round(100 * seconds))
        (whole,) = model.transcribe(samples, alignment=False)
        found = [streamed(model.stream(), samples, size) for size in (101, 1777)]
        check(found[0], whole)
        assert found[1] == found[0], "to the last bit"
        texts.add(found[0].text)
    assert len(texts) > 1, "the model says different things"


def test_a_ctc_head_is_searched_too(random_run: Run) -> None:
    samples = speech(0.9)
    for run, decode in (
        (random_run("ctc", "model=ctc_conformer_tiny", *CHUNKED[1:]), None),
        (random_run("head", *CHUNKED), CtcGreedy()),
    ):
        model = load(run, decode=decode)
        (whole,) = model.transcribe(samples, alignment=False)
        check(streamed(model.stream(), samples, 500), whole)
        assert whole.text


def test_a_quantised_model_is_streamed_as_it_is(random_run: Run, tmp_path: Path) -> None:
    (folder,) = (random_run("run", *CHUNKED) / "checkpoints").glob("step-*")
    loaded = load_model(folder)
    bits = {"bits": 4, "weights": "sawb", "groups": "gate", "inputs": "pact", "hidden": "fixed"}
    node = {"_target_": "compression.quantization.transform.Quantize", "scheme": [{"modules": "*"} | bits]}
    description = replace(loaded.description, transforms=[node])
    save_model(replace(loaded, model=build(node)(loaded.model), description=description), tmp_path / "quantised")
    samples = speech(0.9)
    model = greedy(tmp_path / "quantised")
    (whole,) = model.transcribe(samples, alignment=False)
    check(streamed(model.stream(), samples, 500), whole)
    assert whole.text != greedy(folder).transcribe(samples)[0].text


def test_partial_texts_grow_and_a_word_is_emitted_when_its_chunk_is_heard(random_run: Run) -> None:
    model = greedy(random_run("run", *CHUNKED))
    samples, stream = (32767 * speech(1.37)).astype(np.int16), model.stream()
    texts, before = [], stream.partial
    assert (before.text, before.words, before.seconds) == ("", [], 0.0)
    for start in range(0, len(samples), 160):
        stream.accept(samples[start : start + 160])
        now = stream.partial
        assert now.text.startswith(before.text)
        assert now.words[: len(before.words) - 1] == before.words[:-1]
        assert all(each.emitted <= now.seconds for each in now.words)
        new = now.words[len(before.words) :]
        assert all(each.emitted > before.seconds for each in new)
        texts.append(now.text)
        before = now
    found = stream.final()
    assert len(set(texts)) > 3
    assert stream.final() == found
    chunk = 3 * 0.04
    assert all(0 < each.emitted - each.end < chunk + 0.025 for each in found.words[:-1])


def test_another_rate_is_resampled(random_run: Run) -> None:
    model = greedy(random_run("run", *CHUNKED))
    samples = speech(0.7, rate=44100)
    stream = model.stream(rate=44100, name="talk")
    found = streamed(stream, samples, 999)
    assert found.source == "talk"
    assert found.seconds == pytest.approx(0.7, abs=1e-3)
    lower = model.stream()
    lower.accept(resampled(samples))
    assert found.text == lower.final().text != ""
    with pytest.raises(UsageError, match=r"^audio is sampled at 4001 Hz, an odd rate"):
        model.stream(rate=4001)


def resampled(samples: Any) -> torch.Tensor:
    from asr.data.resampling import resampler

    return resampler(44100, RATE)(torch.from_numpy(samples))


def held(stream: SpeechStream) -> int:
    """Bytes of the tensors that a stream keeps."""
    tensors = [stream._resampler._held, stream._features._samples, stream._features._mel_TF, stream._encoder.past_BTF]
    for memory in stream._encoder.memories:
        tensors += [memory.attended_BLD, memory.convolved_BLD]
    return sum(each.untyped_storage().nbytes() for each in tensors if each is not None)


def test_what_is_kept_does_not_grow(random_run: Run) -> None:
    stream = greedy(random_run("run", *CHUNKED)).stream(rate=16000)
    sizes = []
    for _ in range(8):
        stream.accept(speech(0.41, rate=16000))
        sizes.append(held(stream))
    assert max(sizes[4:]) <= 1.1 * max(sizes[:4])


def test_bad_samples_are_refused_and_the_stream_goes_on(random_run: Run) -> None:
    model = greedy(random_run("run", *CHUNKED))
    stream, samples = model.stream(), speech(1.0)
    stream.accept(samples[:4000])
    for bad, reason in ((np.zeros((2, 8)), r"\(2, 8\)"), (np.full(9, np.nan), "given at 0.500 s, sample 0 is nan")):
        with pytest.raises(BadUtterance, match=reason):
            stream.accept(bad)
    stream.accept(samples[4000:])
    assert stream.final().text == streamed(model.stream(), samples, 8000).text
    with pytest.raises(UsageError, match=r"^stream: the stream has ended; begin another with model.stream\(\)$"):
        stream.accept(samples)
    empty = model.stream().final()
    assert (empty.text, empty.error) == ("", "0.000 s is too short for one frame")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), r"^model\.encoder: a BidirectionalLstm reads utterances from both ends"),
        (("model=conformer_tiny",), r"^model\.encoder\.chunk=null: .*train with model\.encoder\.chunk=16"),
        ((*CHUNKED, "features.normalise=utterance"), r"^features\.normalise=utterance: .*features\.normalise=none$"),
    ],
)
def test_models_that_need_whole_recordings_are_refused(
    overrides: tuple[str, ...], message: str, random_run: Run
) -> None:
    with pytest.raises(UsageError, match=message):
        load(random_run("run", *overrides)).stream()


def test_a_search_of_whole_recordings_is_refused(random_run: Run) -> None:
    fusion = Fusion(external=None, external_weight=0, source=None, source_weight=0, label_bonus=0, end_of_text=False)
    beam: Any = BeamSearch(beam=2, max_labels_per_frame=1.0, n_best=1, fusion=fusion)
    model: Transcriber = load(random_run("run", *CHUNKED), decode=beam)
    with pytest.raises(UsageError, match=r"^decode=beam2 searches whole recordings; a stream takes decode=greedy$"):
        model.stream()
