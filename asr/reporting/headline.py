"""The top of a page: the figures and facts that a reader wants first."""

import math
from collections.abc import Mapping, Sequence

from asr.reporting import text
from asr.reporting.figures import best_evaluation, smoothed_end
from asr.reporting.page import Html, join, tag
from asr.reporting.run import Result, RunRecord
from asr.reporting.words import backend_word, hook_words, model_word

TILES = 3  # results in the headline


def headline(runs: Sequence[RunRecord], title: str) -> Html:
    """The results that a reader wants first."""
    kicker = tag("p", "Murmuration run" if len(runs) == 1 else "Murmuration", class_="kicker")
    if len(runs) > 1:
        return join((kicker, tag("h1", title), tag("p", " · ".join(run.name for run in runs), class_="facts")))
    run = runs[0]
    hooks = " ".join(hook_words(run.config))
    words = (backend_word(run.config), learners(run), model_word(run.config), hooks, commit(run))
    facts = " · ".join(word for word in words if word)
    figures = tiles(run)
    shown = tag("dl", *figures, class_="tiles" if len(figures) == 4 else "tiles by-three")
    return join((kicker, tag("h1", title), tag("p", facts, class_="facts"), shown))


def tiles(run: RunRecord) -> list[Html]:
    """The chief numbers, set large."""
    found = [
        tile(f"WER, {result.title}", text.percent(result.wer), result_aside(result), chief=True)
        for result in run.results[:TILES]
    ] or while_training(run)
    loss = text.figure(smoothed_end(run, "train/loss"))
    found.append(tile("Training loss", loss, "nats per utterance, end of the smoothed curve"))
    found.append(
        tile("Samples", text.count(run.most("samples")), f"{text.count(run.most('global_step'))} global steps")
    )
    found.append(tile("Training time", text.duration(run.most("wall_seconds")), learners(run)))
    return found


def while_training(run: RunRecord) -> list[Html]:
    """The newest word error rates of a run that was not evaluated yet, and the best one."""
    found = []
    for name in run.evaluated_sets()[:TILES]:
        newest = run.last(f"eval/{name}/wer")
        if math.isfinite(newest):
            aside = f"newest while training; best {text.percent(run.least(f'eval/{name}/wer'))}"
            best = best_evaluation(run)
            if best is not None and best.set_name == name:
                aside += f" at step {text.count(best.global_step)}"
            found.append(tile(f"WER, {name}", text.percent(newest), aside, chief=True))
    return found


def tile(label: str, value: str, aside: str, chief: bool = False) -> Html:
    """One number with its name above and a remark below."""
    shown = tag("dd", tag("span", value, class_="figure"), tag("span", aside, class_="aside"))
    return tag("div", tag("dt", label), shown, class_="chief" if chief else None)


def result_aside(result: Result) -> str:
    """A remark on a result: its interval, or the amount of speech it was measured on."""
    if result.interval is not None:
        return f"95 % interval {text.interval(result.interval)}"
    return f"{text.count(result.reference_words)} words"


def learners(run: RunRecord) -> str:
    """The number of learners, in words."""
    return f"{run.learners} learner{'' if run.learners == 1 else 's'}"


def commit(run: RunRecord) -> str:
    """The commit that was run, shortened; ``+`` says that files differed from it."""
    environment = run.summary.get("environment")
    found = str(environment.get("commit") or "") if isinstance(environment, Mapping) else ""
    return f"commit {found[:10]}{'+' * found.endswith('+')}" if found else ""
