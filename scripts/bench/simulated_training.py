"""The run of a configuration by simulated learners in one process: the batches, the model, the loss and the search of the real one.

What a scheme makes of weights and gradients is the real backends' arithmetic (distributed/simulate/). Asynchronous learners
compute at lognormal paces, and an exchange takes a tenth of a unit's time; units of a global batch have one learning rate. There are
no hooks, marks and evaluations on the way; what is evaluated are the mean weights at the end. One thread. L learners, P elements of the flat weights.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from asr.data.batch import Batch
from asr.data.cache import SignalCache
from asr.data.folds import UNDIVIDED
from asr.data.material import Speech
from asr.decoding.wer import ErrorCounts, counts_by_utterance
from asr.models.speech_model import LossOutput, Recogniser
from asr.parts import build, plain
from asr.reporting.words import file_word
from asr.runs.progress import Progress
from asr.training.evaluation import decode_set
from asr.training.inference import Inference
from asr.training.measures import Decode
from asr.training.objective import seed_dropout
from asr.training.schedule import Horizon, Schedule
from asr.training.units import GlobalBatch, global_batches, total_samples
from distributed.errors import UsageError
from distributed.gossip.codes import code_of
from distributed.gossip.topology import Complete, make_topology
from distributed.simulate.asynchronous import GossipLearning
from distributed.simulate.events import Events, FixedLink
from distributed.simulate.flat_model import FlatModel
from distributed.simulate.learners import Copies
from distributed.simulate.lockstep import Lockstep
from distributed.simulate.pace import LogNormal
from distributed.simulate.schemes import (
    AllReduce,
    CompressedGossip,
    DelayByOne,
    Dpsgd,
    Hierarchical,
    LockstepScheme,
    NoisyAllReduce,
    ScaleCom,
)
from distributed.sparse.rates import rates_of
from scripts.composition.build import build_model, build_plan, evaluation_set
from scripts.composition.search import with_language_models

SPREAD, EXCHANGE = 0.2, 0.1  # of the logarithm of a unit's time; of a unit's time
ASYNCHRONOUS = ("adpsgd", "hierarchical_adpsgd")
NOT_SIMULATED = {
    "init_from": None, "frame_targets": None, "fold.leave_out": None, "trainer.precision": "fp32", "optimizer.weight_decay": 0,
    "backend.mix_moments": False, "backend.continuous_momentum": False, "backend.values": "full", "backend.refresh_moments": None,
}  # fmt: skip
Share = tuple[list[Batch], float]  # units of one learner's step, and what the sum of their losses is divided by


class SimulatedRun:
    """A run of ``config`` by so many learners.

    Raises:
        UsageError: the configuration has something that simulated learners do not have.
    """

    def __init__(self, config: DictConfig, learners: int, evaluated: str = "test") -> None:
        _check(config, learners)
        self.config, self.learners, self.device = config, learners, torch.device("cpu")
        self.word, self.settings = file_word(config.backend._target_), plain(config.backend)
        self.speech = Speech(
            build(config.data), build(config.features), build(config.tokenizer).fit([]), None, UNDIVIDED
        )
        split, self._cache = self.speech.split("train"), SignalCache(limit_gb=1)
        module = build_model(config, self.speech)
        if not isinstance(module, Recogniser):
            raise UsageError(f"model={type(module).__name__} writes no words: choose a model that recognises")
        self.module = module
        self._evaluated = evaluation_set(config, self.speech, evaluated, self._cache)
        self._decode: Decode = with_language_models(build(config.decode), module, self.speech.tokenizer)
        self._decode.check(module)
        self.plan = build_plan(config, split, module, [])
        self._units = self.speech.dataset(split, [], config.seed, self._cache)
        self._total = total_samples(build(config.trainer), self.plan)
        horizon = Horizon(self._total, self.plan.utterances, max(1, round(self.plan.nominal_batch)))
        self._schedule: Schedule = build(config.schedule, horizon=horizon)

    def errors(self, weights_P: Tensor) -> dict[str, ErrorCounts]:
        """Word errors of flat weights by utterance of the evaluated set, with the configured search."""
        with torch.no_grad():
            views = self.model.views(weights_P)
            for key, parameter in self.module.named_parameters():
                parameter.copy_(views[key])
        inference = Inference(self.module, self.device, self.config.trainer.precision)
        decoded = decode_set(inference, self._evaluated.batches(), decode=self._decode, tokenizer=self.speech.tokenizer)
        return counts_by_utterance(decoded.references, decoded.hypotheses)

    def train(self) -> Tensor:
        """The flat weights after the last step, the mean over learners."""
        return self._asynchronously() if self.word in ASYNCHRONOUS else self._in_lockstep()

    @cached_property
    def model(self) -> FlatModel:
        """The model at flat weights, laid out as the scheme needs it."""
        rates = None
        if self.word == "scalecom":
            rates = rates_of(self.module, self.settings["rate"], self.settings["rates"])
        return FlatModel(self.module, self._criterion, rates)

    def _criterion(self, call: Callable[[Batch], LossOutput], share: Share) -> Tensor:
        units, divisor = share
        total = torch.zeros(())
        for unit in units:
            seed_dropout(self.config.seed, unit.unit, "", self.device)
            total = total + call(unit).total
        return total / divisor

    def _optimizer(self, parameters: Sequence[nn.Parameter]) -> Optimizer:
        optimizer: Optimizer = build(self.config.optimizer, groups=[{"params": list(parameters)}])
        return optimizer

    def _rate(self, samples: int) -> float:
        """The learning rate of a step that begins after so many samples."""
        return float(self.config.optimizer.lr * self._schedule.peak_scale * self._schedule.factor(samples))

    def _batches(self) -> Iterator[GlobalBatch]:
        return global_batches(self.plan, Progress(), self._total)

    def _in_lockstep(self) -> Tensor:
        lockstep = Lockstep(
            scheme=self._scheme(),
            learners=self.learners,
            loss=self.model.loss,
            start_P=self.model.start_P,
            make_optimizer=self._optimizer,
            pieces=self.model.pieces,
            max_norm=self.config.trainer.max_norm,
        )
        for batch in self._batches():
            lockstep.copies.set_rate(self._rate(batch.samples_before))
            divisor = (batch.samples - batch.samples_before) / self.learners
            ranks = (self.plan.learner_units(batch.units, rank, self.learners) for rank in range(self.learners))
            lockstep.step([([self._units[unit] for unit in units], divisor) for units in ranks])
        return lockstep.copies.mean

    def _scheme(self) -> LockstepScheme:
        settings, seed = self.settings, self.settings.get("seed", self.config.seed)
        topology = make_topology(settings["topology"], seed) if "topology" in settings else Complete()
        code = code_of(settings.get("compression", "none"), settings.get("compression_rate", 1))
        schemes: dict[str, Callable[[], LockstepScheme]] = {
            "allreduce": AllReduce,
            "ssgd_noise": lambda: NoisyAllReduce(settings["sigma"], seed),
            "dpsgd": lambda: Dpsgd(topology),
            "delay_by_one": DelayByOne,
            "hierarchical": lambda: Hierarchical(topology, settings["group_size"]),
            "scalecom": lambda: ScaleCom(
                segments=self.model.segments, beta=settings["beta"], warmup_steps=settings["warmup_steps"]
            ),
        }
        if self.word not in schemes:
            known = ", ".join([*schemes, *ASYNCHRONOUS])
            raise UsageError(f"backend={self.word}: recognisers are not simulated with it, but with {known}")
        return schemes[self.word]() if code is None else CompressedGossip(topology, code, settings["consensus_step"])

    def _asynchronously(self) -> Tensor:
        """Groups of one learner each, or of several that average their gradients, take the next units of the plan."""
        size = self.settings["group_size"] if self.word == "hierarchical_adpsgd" else 1
        groups, seed = self.learners // size, self.config.seed
        topology = make_topology(self.settings["topology"], self.settings["seed"])
        copies = Copies(self.model.start_P, groups, self._optimizer, self.model.pieces)
        pool = [
            (batch.units[first : first + size], batch.samples_before)
            for batch in self._batches()
            for first in range(0, len(batch.units), size)
        ]
        divisor = self.plan.nominal_batch / groups
        learning = GossipLearning(
            loss=self.model.loss,
            copies=copies,
            batch_of=lambda place: ([self._units[unit] for unit in pool[place][0]], divisor),
            rate=lambda place: self._rate(pool[place][1]),
            max_norm=self.config.trainer.max_norm,
        )
        events = Events(
            learners=groups,
            pace=LogNormal(1.0, SPREAD, seed=seed),
            link=FixedLink(EXCHANGE),
            topology=topology,
            rounds_per_step=self.settings["rounds_per_step"],
            max_staleness=self.settings["max_staleness"],
            learning=learning,
        )
        events.run(range(len(pool)))
        learning.fold()
        return copies.mean


def _check(config: DictConfig, learners: int) -> None:
    """Refuse what the simulation would leave out without a word."""
    word, backend = file_word(config.backend._target_), plain(config.backend)
    size = backend.get("group_size", 1)
    plainly = NOT_SIMULATED | ({"backend.compression": "none"} if word in ASYNCHRONOUS else {})
    given = {key: OmegaConf.select(config, key) for key in plainly}
    refused = [
        (
            config.batch.units != learners,
            f"batch.units={config.batch.units}",
            f"each of {learners} simulated learners takes one unit; set batch.units={learners}",
        ),
        (bool(config.get("hooks")), "hooks", "simulated learners have none; set hooks=[]"),
        (bool(config.transforms), "transforms", "simulated learners train ordinary models; set transforms=[]"),
        (
            backend.get("rate") == "auto",
            "backend.rate=auto",
            "depends on the model's uses, which are not simulated; set a number",
        ),
        (
            size is None or learners % size > 0,
            f"backend.group_size={size}",
            f"set a number that divides {learners} simulated learners",
        ),
        *(
            (
                given[key] not in (None, value),
                f"{key}={given[key]}",
                f"simulated learners do not have it; set it to {value}",
            )
            for key, value in plainly.items()
        ),
    ]
    for wrong, setting, remedy in refused:
        if wrong:
            raise UsageError(f"{setting}: {remedy}")
