"""The table and the page of scripts/simulate.py: every backend's step on a cluster, and over the number of learners."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from asr.foreign.terminal import say
from asr.parts import plain
from asr.reporting.cluster import HEADER, Backend, cluster_page
from asr.runs.files import write_atomically
from distributed.simulate.clock import Timing
from distributed.simulate.cluster import Cluster
from distributed.simulate.model_size import ModelSize
from distributed.simulate.pace import LogNormal, Pace, Straggler
from distributed.simulate.words import WORDS, time_of, timed, work_seconds
from scripts.composition.compose import compose, options

BYTES_PER_GBIT = 1e9 / 8
CURVE_STEPS = 20  # of each point over the number of learners


def run(arguments: list[str]) -> None:
    """Print the table, and write the page where ``out`` names one."""
    config = compose("simulate", arguments)
    configs = [config] if config.get("backend") is not None else every_backend(arguments)
    model = ModelSize.square(config.parameters)
    rows = (simulated(each, model, cluster_of(each), each.steps) for each in configs)
    found = sorted(rows, key=lambda row: row.step_seconds)
    say(" | ".join(HEADER), *(" | ".join(each.cells) for each in found))
    say(
        f"simulated: {config.learners} learners, {config.parameters:,} parameters; docs/simulator.md says how far to trust it"
    )
    if config.out is not None:
        curves = {name_of(each): over_learners(each, model) for each in configs}
        out = Path(config.out)
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, cluster_page(found, curves, described(config)))
        say(str(out))


def every_backend(arguments: Sequence[str]) -> list[DictConfig]:
    """The configuration with each backend that the simulator knows; ``single`` is for one learner alone."""
    configs = [compose("simulate", [*arguments, f"backend={word}"]) for word in options("backend")]
    several = [each for each in configs if each.learners == 1 or name_of(each) != "single"]
    if unknown := [name_of(each) for each in several if name_of(each) not in WORDS]:
        say(f"not known to the simulator, and left out: {', '.join(unknown)}")
    return [each for each in several if name_of(each) in WORDS]


def name_of(config: DictConfig) -> str:
    """The word of a configuration's backend: the file that its class lies in."""
    return str(config.backend._target_).split(".")[-2]


def cluster_of(config: DictConfig, learners: int | None = None) -> Cluster:
    """The cluster of a configuration, of ``learners`` where that is given."""
    return Cluster(
        config.learners if learners is None else learners,
        config.learners_per_node,
        config.gbit_per_second * BYTES_PER_GBIT,
        config.latency_us * 1e-6,
        config.inside_gbit_per_second * BYTES_PER_GBIT,
        config.inside_latency_us * 1e-6,
    )


def timing_of(config: DictConfig, model: ModelSize, cluster: Cluster, steps: int) -> Timing:
    """What the simulation shows."""
    word, settings = name_of(config), plain(config)["backend"]
    pace: Pace = LogNormal(config.unit_seconds, config.spread, config.seed)
    pace = pace if config.straggler == 1 else Straggler(pace, config.straggler)
    own = work_seconds(word, settings, model, config.speed)
    return time_of(timed(word, settings, cluster), cluster, model, pace, steps=steps, work_seconds=own)


def simulated(config: DictConfig, model: ModelSize, cluster: Cluster, steps: int) -> Backend:
    """One backend's row."""
    timing = timing_of(config, model, cluster, steps)
    return Backend(
        word=name_of(config),
        step_seconds=timing.step_seconds,
        compute_seconds=config.unit_seconds,
        waited_seconds=timing.waited_seconds,
        epoch_seconds=timing.epoch_seconds(config.units, cluster.learners),
        bytes_sent=timing.bytes_sent,
        staleness_mean=timing.staleness_mean,
        staleness_max=max(timing.staleness, default=0),
    )


def over_learners(config: DictConfig, model: ModelSize) -> dict[int, float]:
    """Speed-up over one learner's computation alone, for powers of two of learners that fill nodes and groups."""
    found, group = {}, config.backend.get("group_size") or 1
    for learners in (2**power for power in range(1, config.learners.bit_length())):
        if learners % min(learners, config.learners_per_node) == 0 and learners % group == 0:
            timing = timing_of(config, model, cluster_of(config, learners), CURVE_STEPS)
            found[learners] = learners * config.unit_seconds / timing.step_seconds
    return found


def described(config: DictConfig) -> str:
    """The cluster and the model in words."""
    slow = f", learner 0 {config.straggler:g} times slower" if config.straggler != 1 else ""
    return (
        f"{config.learners} learners, {config.learners_per_node} per node; {config.gbit_per_second:g} Gbit/s and "
        f"{config.latency_us:g} us between nodes, {config.inside_gbit_per_second:g} Gbit/s and {config.inside_latency_us:g} us "
        f"inside; {config.parameters:,} parameters; a unit computes for {config.unit_seconds:g} s, spread {config.spread:g}{slow}"
    )
