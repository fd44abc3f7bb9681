"""From a unit of the plan to a batch: read, transform, pad.

    read -> [waveform hooks] -> log-mel -> [mel hooks] -> normalise -> [normalised hooks]
         -> deltas, stacking -> [targets hooks] -> pad

All random draws are keyed by (seed, epoch, utterance, hook) and no state is carried from unit to unit, so that a batch
does not depend on the process that loads it, nor on the time. Results of the steps before the first random one may be
cached in memory.

B utterances   T feature frames   F feature dimension   U target tokens
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from asr.data.audio import BadUtterance, read_audio
from asr.data.batch import IGNORED, STAGES, Batch, RawBatch, Stage, Unit
from asr.data.cache import SignalCache
from asr.data.features import LogMel
from asr.data.manifest import Utterance
from asr.data.screening import OnBad
from asr.data.tokenizer import BLANK, Tokenizer, UnknownSymbol
from distributed.errors import UsageError


class HookError(UsageError):
    """A hook failed, or left an invalid batch; the message names the fault and the utterance."""


class BatchHook(Protocol):
    """The interface that the pipeline needs of a hook; ``asr.training.hook.Hook`` provides it."""

    @property
    def stage(self) -> Stage | None:
        """The stage in which ``on_batch`` runs; None for hooks that do not change batches."""

    def on_batch(self, raw: RawBatch) -> None:
        """Change a unit before it is padded."""


class UnitBatches(Protocol):
    """Loads units: of speech (``UnitDataset``) or of any other training data."""

    def __getitem__(self, unit: Unit, /) -> Batch:
        """The padded batch of a unit, a function of the unit alone."""


class FrameTargets(Protocol):
    """Source of per-frame targets: classes of an alignment, or other values for each frame."""

    def of(self, utterance_id: str, frames: int) -> Tensor:
        """Targets of an utterance, (T,) int64 classes or (T, ...) numbers; raises ValueError if it has none."""


class UnitDataset(Dataset[Batch]):
    """Maps a unit of the plan to its batch.

    Args:
        utterances: the list that the plan's indices refer to.
        hooks: (name, hook) in the order of the configuration, which the stage overrules; none in evaluation.
        on_bad: ``stop`` raises BadUtterance, ``skip`` leaves the utterance out and hands the refusal over in ``Batch.refused``.
        resample: whether files may have another rate than the features.
        cache: keeps log-mel features in memory, or waveforms where a waveform hook or dither makes features random:
            at 16 kHz, 10 ms and 80 bins 115 or 230 MB per hour of speech. Several datasets may share it.
        frame_targets: source of the targets of all frames; None if the model needs none.
    """

    def __init__(
        self,
        *,
        utterances: Sequence[Utterance],
        tokenizer: Tokenizer,
        features: LogMel,
        hooks: Sequence[tuple[str, BatchHook]],
        seed: int,
        on_bad: OnBad,
        resample: bool,
        cache: SignalCache,
        frame_targets: FrameTargets | None = None,
    ) -> None:
        self.utterances = utterances
        self.tokenizer = tokenizer
        self.features = features
        self.hooks: dict[Stage, list[tuple[str, BatchHook]]] = {
            stage: [(name, hook) for name, hook in hooks if hook.stage == stage] for stage in STAGES
        }
        self.seed = seed
        self.on_bad = on_bad
        self.resample = resample
        self.cache = cache
        self.frame_targets = frame_targets
        self._repeatable_mel = not self.hooks["waveform"] and features.dither == 0

    def __getitem__(self, unit: Unit) -> Batch:
        """The padded batch of a unit; a unit without usable utterances has B = 0 and weight 0.

        Raises:
            BadUtterance: an utterance cannot be used and ``on_bad`` is ``stop``.
            HookError: a hook left something that cannot be a batch.
        """
        raw = RawBatch(self.seed, unit.epoch, [], [], [], [], vocabulary_size=self.tokenizer.vocabulary_size)
        seconds = 0.0
        for index in unit.utterances:
            utterance = self.utterances[index]
            try:
                signal, targets = self._signal(index), self._targets(utterance)
                if self.frame_targets is not None:
                    raw.frame_targets.append(self._frame_targets(utterance, signal))
            except BadUtterance as bad:
                if self.on_bad == "stop":
                    raise
                raw.refused.append(bad)
                continue
            raw.utterance_ids.append(utterance.id)
            raw.signals.append(signal)
            raw.targets.append(targets)
            raw.predictor_inputs.append(list(targets))
            seconds += utterance.duration
        if raw.utterance_ids:
            self._transform(raw)
        return collate(raw, self.features.dimension, unit.name, seconds)

    def _signal(self, index: int) -> Tensor:
        """The signal up to the first random step: log-mel features (T, F), or the waveform (samples,)."""
        utterance = self.utterances[index]
        key = (utterance, self._repeatable_mel)
        if (kept := self.cache.get(key)) is not None:
            return kept.clone()  # hooks may write into it
        signal = read_audio(utterance, self.features.sample_rate, resample=self.resample)
        if self.features.frames_of(len(signal)) == 0:
            reason = f"is too short for one frame of {self.features.frame_length_ms:g} ms; remove the utterance"
            raise BadUtterance(utterance.id, utterance.audio_filepath, reason)
        if self._repeatable_mel:
            signal = self.features.mel(signal)
        self.cache.put(key, signal)
        return signal.clone()

    def _targets(self, utterance: Utterance) -> list[int]:
        try:
            return self.tokenizer.encode(utterance.text)
        except UnknownSymbol as error:
            raise BadUtterance(utterance.id, utterance.audio_filepath, str(error)) from None

    def _frame_targets(self, utterance: Utterance, signal: Tensor) -> Tensor:
        assert self.frame_targets is not None
        count = self.features.frames_of_mel if self._repeatable_mel else self.features.frames_of
        try:
            return self.frame_targets.of(utterance.id, count(len(signal)))
        except ValueError as error:
            raise BadUtterance(utterance.id, utterance.audio_filepath, str(error)) from None

    def _transform(self, raw: RawBatch) -> None:
        """Apply hooks and the remaining feature steps: from the signals before any random step to the model's input."""
        self._run_hooks("waveform", raw)
        if not self._repeatable_mel:
            raw.hook = "dither"
            raw.signals[:] = [
                self.features.mel(waveform, raw.generator(position)) for position, waveform in enumerate(raw.signals)
            ]
        self._run_hooks("mel", raw)
        raw.signals[:] = [self.features.normalise(mel_TF) for mel_TF in raw.signals]
        self._run_hooks("normalised", raw)
        raw.signals[:] = [self.features.in_context(normalised_TF) for normalised_TF in raw.signals]
        self._run_hooks("targets", raw)
        self._check_frame_targets(raw)

    def _check_frame_targets(self, raw: RawBatch) -> None:
        """Check the number of targets: hooks that lengthen, shorten or resample speech would silently shift them."""
        if self.frame_targets is None:
            return
        for utterance_id, signal, targets in zip(raw.utterance_ids, raw.signals, raw.frame_targets, strict=True):
            if len(signal) != len(targets):
                raise HookError(
                    f"hooks left utterance {utterance_id} {len(signal)} frames and {len(targets)} frame targets: "
                    "with frame_targets, choose hooks that keep the number of frames"
                )

    def _run_hooks(self, stage: Stage, raw: RawBatch) -> None:
        for name, hook in self.hooks[stage]:
            raw.hook = name
            hook.on_batch(raw)
            self._check(raw, stage, name)

    def _check(self, raw: RawBatch, stage: Stage, name: str) -> None:
        """Check the batch after a hook, so that the error names the hook and does not appear later in the model."""
        columns = (raw.signals, raw.targets, raw.predictor_inputs)
        if any(len(column) != len(raw.utterance_ids) for column in columns):
            raise HookError(f"hook {name!r} must leave {len(raw.utterance_ids)} signals, targets and predictor inputs")
        for utterance_id, targets, inputs in zip(raw.utterance_ids, raw.targets, raw.predictor_inputs, strict=True):
            if len(targets) != len(inputs) or not all(
                0 < token < self.tokenizer.vocabulary_size for token in (*targets, *inputs)
            ):
                raise HookError(
                    f"hook {name!r} left utterance {utterance_id} {len(targets)} targets and {len(inputs)} predictor "
                    f"inputs: they must be as many, each a token from 1 to {self.tokenizer.vocabulary_size - 1}"
                )
        for utterance_id, signal in zip(raw.utterance_ids, raw.signals, strict=True):
            frames = self.features.frames_of(signal.numel()) if stage == "waveform" else signal.shape[0]
            shape = self._trailing_shape(stage)
            if frames == 0 or signal.shape[1:] != shape:
                raise HookError(
                    f"hook {name!r} left utterance {utterance_id} a signal of shape {tuple(signal.shape)} "
                    f"in stage {stage}: too short for one frame, or of the wrong dimension"
                )

    def _trailing_shape(self, stage: Stage) -> tuple[int, ...]:
        """Shape of a signal without its time axis."""
        if stage == "waveform":
            return ()
        return (self.features.dimension if stage == "targets" else self.features.num_mels,)


def _pad_tokens(tokens: Sequence[Sequence[int]]) -> Tensor:
    """Pad token lists to (B, U) int64 with blank; U = 0 is allowed."""
    rows = [torch.tensor(row, dtype=torch.int64) for row in tokens]
    return pad_sequence(rows, batch_first=True, padding_value=BLANK) if rows else torch.zeros(0, 0, dtype=torch.int64)


def _pad_frames(targets: Sequence[Tensor]) -> Tensor | None:
    """Pad to (B, T, ...): classes with IGNORED, other numbers with 0; None if there are no frame targets."""
    if not targets:
        return None
    padding = IGNORED if targets[0].dtype == torch.int64 else 0.0
    return pad_sequence(list(targets), batch_first=True, padding_value=padding)


def collate(raw: RawBatch, dimension: int, unit: str, audio_seconds: float) -> Batch:
    """Pad a unit: features (T, F) of several lengths to (B, T, F), targets to (B, U)."""
    return Batch(
        utterance_ids=raw.utterance_ids,
        features=pad_sequence(raw.signals, batch_first=True) if raw.signals else torch.zeros(0, 0, dimension),
        feature_lengths=torch.tensor([len(signal) for signal in raw.signals], dtype=torch.int64),
        targets=_pad_tokens(raw.targets),
        target_lengths=torch.tensor([len(row) for row in raw.targets], dtype=torch.int64),
        predictor_inputs=_pad_tokens(raw.predictor_inputs),
        weight=float(len(raw.utterance_ids)),
        unit=unit,
        audio_seconds=audio_seconds,
        refused=raw.refused,
        metrics=raw.metrics,
        frame_targets=_pad_frames(raw.frame_targets),
    )


class _RefusalsAsValues(Dataset[Batch | BadUtterance | HookError]):
    """Returns errors that users can fix as values: a DataLoader would bury their one line in a worker's traceback."""

    def __init__(self, dataset: UnitBatches) -> None:
        self.dataset = dataset

    def __getitem__(self, unit: Unit) -> Batch | BadUtterance | HookError:
        try:
            return self.dataset[unit]
        except (BadUtterance, HookError) as error:
            return error


def unit_loader(dataset: UnitBatches, units: Iterable[Unit], *, num_workers: int, prefetch: int) -> Iterator[Batch]:
    """Load the batches of ``units``, in order; they do not depend on the number of workers.

    Args:
        units: may be lazy; workers make it run ``num_workers * prefetch`` units ahead of what is returned.
        num_workers: processes (spawned, one compute thread each) that load; 0 loads in this one.
        prefetch: units read ahead per worker.
    """
    if num_workers == 0:
        for unit in units:
            yield dataset[unit]
        return
    loader: DataLoader[Batch | BadUtterance | HookError] = DataLoader(
        _RefusalsAsValues(dataset),
        batch_size=None,
        sampler=units,
        num_workers=num_workers,
        prefetch_factor=prefetch,
        multiprocessing_context="spawn",
        generator=torch.Generator(),  # its own: otherwise every iterator draws from the global one
        worker_init_fn=partial(_multiply_as, torch.backends.mkldnn.matmul.fp32_precision),  # type: ignore[attr-defined]
    )
    for batch in loader:
        if isinstance(batch, BadUtterance | HookError):
            raise batch
        yield batch


def _multiply_as(fp32_precision: str, worker: int) -> None:
    """Set a worker's matrix product path to the training process's, without which results differ in the last bits."""
    torch.backends.mkldnn.matmul.fp32_precision = fp32_precision  # type: ignore[attr-defined]
