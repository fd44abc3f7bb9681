"""The top-level keys of each entry point's configuration, checked against these annotations like all other values."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from omegaconf import DictConfig

from distributed.ranges import Count, Natural, NonNegative, Positive

Device = Literal["auto", "cpu", "cuda"]  # device that a model runs on
Group = Callable[..., Any]  # one node with a ``_target_``
Groups = Any  # any number of such nodes, by name


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Keys of every training run: conf/training.yaml, and its groups."""

    script: ClassVar[str]  # the entry point

    name: str | int | None
    exp_dir: Path
    seed: Natural
    resume: bool
    init_from: Path | None
    init_modules: list[str] | None
    model_of: Path | None
    transforms: list[Group]
    data: Group
    tokenizer: Group
    model: Group
    backend: Group
    optimizer: Group
    schedule: Group
    hooks: Groups
    logger: Groups
    batch: Group
    loader: Group
    evaluation: Group
    launch: Group
    trainer: Group
    checkpoint: Group


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings(RunSettings):
    """conf/train.yaml."""

    script: ClassVar[str] = "train.py"

    frame_targets: Path | None
    fold: Group
    decode: Group
    features: Group


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainLmSettings(RunSettings):
    """conf/train_lm.yaml."""

    script: ClassVar[str] = "train_lm.py"

    transcripts: bool
    texts: list[Path]


def settings_of_run(config: DictConfig) -> type[RunSettings] | None:
    """The settings class of a run's configuration; None if it is not one of a run."""
    known: tuple[type[RunSettings], ...] = (TrainSettings, TrainLmSettings)
    return next((each for each in known if config.get("_target_") == f"{__name__}.{each.__name__}"), None)


def trains_on_text(config: DictConfig) -> bool:
    """Whether a run's model is a language model, trained on texts without audio."""
    return settings_of_run(config) is TrainLmSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSettings:
    """conf/prepare.yaml."""

    data: Group
    tokenizer: Group
    report: Path | None
    examples: Natural


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainTokenizerSettings:
    """conf/train_tokenizer.yaml."""

    data: Group
    tokenizer: Group
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    """conf/evaluate.yaml."""

    run: Path
    weights: Path | None
    against: Path | None
    checkpoint: str
    sets: list[str]
    unit_utterances: Count
    device: Device
    threads: Count
    decode: Group
    text: Group


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressSettings:
    """conf/compress.yaml."""

    passes: Group
    run: Path
    weights: Path | None
    checkpoint: str
    name: str | None
    unit_utterances: Count
    threads: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """conf/export.yaml."""

    run: Path
    weights: Path | None
    checkpoint: str
    format: Literal["onnx", "onnx_streaming"]
    name: str | None
    history: Count
    check: str | None
    changed_texts: NonNegative
    licence: str | None
    unit_utterances: Count
    threads: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignSettings:
    """conf/align.yaml."""

    run: Path
    checkpoint: str
    sets: list[str]
    method: Literal["auto", "ctc", "transducer"]
    out: Path | None
    unit_utterances: Count
    device: Device
    threads: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSettings:
    """conf/cut.yaml."""

    run: Path
    checkpoint: str
    sets: list[str]
    out: Path
    method: Literal["auto", "ctc", "transducer"]
    cutter: Group
    unit_utterances: Count
    device: Device
    threads: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeNbestSettings:
    """conf/make_nbest.yaml."""

    run: Path | list[Path]
    checkpoint: str
    split: str
    hypotheses: Count
    out: Path | None
    unit_utterances: Count
    shard_utterances: Count
    device: Device
    threads: Count
    decode: Group


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribeSettings:
    """conf/transcribe.yaml."""

    run: Path
    weights: Path | None
    checkpoint: str
    unit_utterances: Count
    format: Literal["text", "json", "srt"]
    out: Path | None
    rate: Count
    stream: bool
    pace: Literal["fast", "spoken"]
    segments: Literal["windows", "vad"]
    window_seconds: Positive
    overlap_seconds: Positive
    device: Device
    threads: Count
    decode: Group


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneFusionSettings:
    """conf/tune_fusion.yaml."""

    run: Path
    checkpoint: str
    set: str
    unit_utterances: Count
    device: Device
    threads: Count
    external_weights: list[NonNegative]
    source_weights: list[NonNegative]
    label_bonuses: list[float]
    searches: Natural
    decode: Group
    text: Group


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSettings:
    """conf/report.yaml."""

    out: Path | None
    baseline: str | None
    watch: bool
    watch_seconds: Count
    port: Natural
    checkpoint: str
    lattices: Natural
    set: str
    device: Device
    threads: Count
    decode: Group


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateSettings:
    """conf/simulate.yaml."""

    backend: Group
    parameters: Count
    learners: Count
    learners_per_node: Count
    unit_seconds: Positive
    spread: NonNegative
    straggler: Positive
    units: Count
    gbit_per_second: Positive
    latency_us: NonNegative
    inside_gbit_per_second: Positive
    inside_latency_us: NonNegative
    speed: Positive
    steps: Count
    seed: Natural
    out: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSettings:
    """conf/sweep.yaml."""

    name: str
    exp_dir: Path
    learners: Count
    restarts: Natural
    sampler: Literal["auto", "grid", "random", "tpe"]
    trials: Count | None
    seed: Natural
    figure: str | None
    where: Literal["local", "slurm"]
    trial: Natural | None
    sbatch: str | None
