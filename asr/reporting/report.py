"""The report of a run: one self-contained HTML page; of several runs: the same page, comparing them."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from asr.reporting import text
from asr.reporting.kept_units import PREFIX, kept_units
from asr.reporting.lattice import LatticePicture, lattice_figure
from asr.reporting.learners import learner_charts, learners_table, shown_here
from asr.reporting.page import Html, Section, details, join, render, table, tag
from asr.reporting.plots import cost_charts, other_figures, training_charts
from asr.reporting.run import Result, RunRecord
from asr.reporting.transcripts import confusion_tables, confusions, utterance_list, worst
from distributed.errors import UsageError

WORST_UTTERANCES = 12
CONFUSIONS = 12
DIFFERENCES = 60  # configuration keys in which compared runs differ
TILES = 3  # results in the headline
MOST_LEARNERS = 16  # with a line each; more are folded away


def report(records: RunRecord | Sequence[RunRecord], lattices: Sequence[LatticePicture] = ()) -> str:
    """The page of one run, or of several compared. Sections without data are left out."""
    runs = [records] if isinstance(records, RunRecord) else list(records)
    if not runs:
        raise UsageError("a report needs at least one run, got none; name run folders")
    title = runs[0].name if len(runs) == 1 else f"Comparison of {len(runs)} runs"
    sections = [
        ("Comparison", comparison(runs) if len(runs) > 1 else Html("")),
        ("Results", results_table(runs)),
        ("Training", grid(training_charts(runs))),
        ("Time and throughput", grid(cost_charts(runs))),
        ("Learners", learners_section(runs)),
        ("Units kept", kept_units(runs)),
        ("Errors", join(errors(run, len(runs) > 1) for run in runs)),
        ("Alignments", lattice_section(lattices)),
        ("Other figures", others(runs)),
        ("Configuration", configuration(runs)),
        ("Environment", join(environment(run, len(runs) > 1) for run in runs)),
    ]
    filled = [Section(name, body) for name, body in sections if body]
    return render(f"{title} – Murmuration", filled, headline(runs, title))


# ---------------------------------------------------------------------- headline


def headline(runs: Sequence[RunRecord], title: str) -> Html:
    """The results that a reader wants first."""
    kicker = tag("p", "Murmuration run" if len(runs) == 1 else "Murmuration", class_="kicker")
    if len(runs) > 1:
        return join((kicker, tag("h1", title), tag("p", " · ".join(run.name for run in runs), class_="facts")))
    run = runs[0]
    facts = " · ".join(fact for fact in (backend(run), learners(run), model(run), commit(run)) if fact)
    figures = tiles(run)
    shown = tag("dl", *figures, class_="tiles" if len(figures) == 4 else "tiles by-three")
    return join((kicker, tag("h1", title), tag("p", facts, class_="facts"), shown))


def tiles(run: RunRecord) -> list[Html]:
    """The chief numbers, set large."""
    found = [
        tile(f"WER, {result.title}", text.percent(result.wer), result_aside(result), chief=True)
        for result in run.results[:TILES]
    ]
    if not found:
        keys = {name: f"eval/{name}/wer" for name in run.evaluated_sets()[:TILES]}
        found = [
            tile(
                f"WER, {name}",
                text.percent(run.last(key)),
                f"while training; best {text.percent(run.least(key))}",
                True,
            )
            for name, key in keys.items()
            if math.isfinite(run.last(key))
        ]
    found.append(tile("Training loss", text.figure(run.last("train/loss")), "nats per utterance, newest"))
    found.append(
        tile("Samples", text.count(run.most("samples")), f"{text.count(run.most('global_step'))} global steps")
    )
    found.append(tile("Training time", text.duration(run.most("wall_seconds")), learners(run)))
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


def backend(run: RunRecord) -> str:
    """The backend, as the summary names it or else as the configuration builds it."""
    return str(run.summary.get("backend") or target(run, "backend"))


def model(run: RunRecord) -> str:
    """The encoder that the configuration builds."""
    return target(run, "model.encoder") or target(run, "model")


def target(run: RunRecord, node: str) -> str:
    """The name of the class or function behind a node of the configuration; empty where it has none."""
    return str(run.config.get(f"{node}._target_", "")).rsplit(".", 1)[-1]


def learners(run: RunRecord) -> str:
    """The number of learners, in words."""
    return f"{run.learners} learner{'' if run.learners == 1 else 's'}"


def commit(run: RunRecord) -> str:
    """The commit that was run, shortened; ``+`` says that files differed from it."""
    environment = run.summary.get("environment")
    found = str(environment.get("commit") or "") if isinstance(environment, Mapping) else ""
    return f"commit {found[:10]}{'+' * found.endswith('+')}" if found else ""


# ---------------------------------------------------------------------- sections


def comparison(runs: Sequence[RunRecord]) -> Html:
    """One line per run, and the settings in which the runs differ."""
    titles = sorted({result.title for run in runs for result in run.results})
    header = ["run", "backend", "learners", "samples", "time", "loss", *(f"WER {title}" for title in titles)]
    rows = []
    for index, run in enumerate(runs, start=1):
        rates = {result.title: text.percent(result.wer) for result in run.results}
        costs = [
            text.count(run.most("samples")),
            text.duration(run.most("wall_seconds")),
            text.figure(run.last("train/loss")),
        ]
        figures = [*costs, *(rates.get(title, text.MISSING) for title in titles)]
        rows.append([f"{index}. {run.name}", backend(run) or text.MISSING, str(run.learners), *figures])
    compared = table(header, rows, "Runs compared", numbers=range(2, len(header)))
    return join((compared, differences(runs)))


def differences(runs: Sequence[RunRecord]) -> Html:
    """Settings that differ between the runs, their names excepted."""
    keys = sorted({key for run in runs for key in run.config})
    rows = []
    for key in keys:
        values = [str(run.config.get(key, text.MISSING)) for run in runs]
        if len(set(values)) > 1 and key != "name":
            rows.append([key, *values])
    if not rows:
        return tag("p", "All settings are the same.", class_="note")
    more = f" The first {DIFFERENCES} of {len(rows)}." if len(rows) > DIFFERENCES else ""
    shown = table(["setting", *(run.name for run in runs)], rows[:DIFFERENCES], "Settings that differ")
    return join((tag("h3", "Settings that differ"), tag("p", more, class_="note") if more else Html(""), shown))


def results_table(runs: Sequence[RunRecord]) -> Html:
    """A table of every evaluation with its errors by kind."""
    several = len(runs) > 1
    columns = ["set", "search", "WER", "95 % interval", "CER", "ins", "del", "sub", "words", "utterances", "decoded in"]
    header = [*(["run"] if several else []), *columns]
    rows = []
    for run in runs:
        for result in run.results:
            rates = [text.percent(result.wer), text.interval(result.interval), text.percent(result.cer)]
            kinds = [
                result.insertions,
                result.deletions,
                result.substitutions,
                result.reference_words,
                result.utterances,
            ]
            counts = [text.count(kind) for kind in kinds]
            row = [result.set_name, result.decode, *rates, *counts, result.arithmetic or text.MISSING]
            rows.append([run.name, *row] if several else row)
    if not rows:
        return tag("p", "Not evaluated yet: scripts/evaluate.py writes these figures.", class_="note")
    return table(header, rows, "Word and character error rates", numbers=range(2 + several, len(header) - 1))


def grid(charts: Sequence[Html]) -> Html:
    """Charts side by side where there is room; nothing where there are none."""
    return tag("div", *charts, class_="plots") if charts else Html("")


def learners_section(runs: Sequence[RunRecord]) -> Html:
    """The section on learners: their shares of the work, their distances and the effects."""
    tables = [(run.name, learners_table(run), run.learners) for run in runs]
    several = len(runs) > 1
    shown = [
        details(name if several else f"{count} learners", shown) if several or count > MOST_LEARNERS else shown
        for name, shown, count in tables
        if shown
    ]
    return join((*shown, grid(learner_charts(runs))))


def errors(run: RunRecord, several: bool) -> Html:
    """Worst utterances and most frequent confusions of every evaluation; the first one unfolded."""
    parts = []
    for index, result in enumerate(result for result in run.results if result.transcripts):
        utterances = worst(result.transcripts, WORST_UTTERANCES)
        title = f"{run.name}: {result.title}" if several else result.title
        if not utterances:
            parts.append(tag("p", f"{title}: no errors.", class_="note"))
            continue
        how = tag("p", tag("del", "said but missed"), " ", tag("ins", "written instead, or added"), class_="note")
        listed = join((how, utterance_list(utterances), confusion_tables(confusions(result.transcripts, CONFUSIONS))))
        parts.append(details(f"{title}: utterances with the most errors", listed, is_open=index == 0 and not several))
    return join(parts)


def lattice_section(lattices: Sequence[LatticePicture]) -> Html:
    """Pictures of lattices, with a line on how to read them."""
    if not lattices:
        return Html("")
    how = (
        "Where the model places the words of the reference. The bluer, the more probable that the alignment passes there "
        "(opacity is the square root of the posterior); the line is the best single alignment, a dot each label's emission."
    )
    figures = [lattice_figure(picture, f"lattice-{index}") for index, picture in enumerate(lattices)]
    return join((tag("p", how, class_="note"), tag("div", *figures, class_="lattices")))


def others(runs: Sequence[RunRecord]) -> Html:
    """Further metrics of hooks and backends, folded away; those that never changed are only listed."""
    charts, constants = other_figures(runs, elsewhere=lambda key: shown_here(key) or key.startswith(PREFIX))
    rows = [(key, text.figure(value)) for key, value in constants]
    listed = [table(("never changed", "value"), rows, "Figures that never changed", numbers=(1,))] if rows else []
    inside = [*listed, *([grid(charts)] if charts else [])]
    return details(f"{len(charts) + len(rows)} more figures", *inside) if inside else Html("")


def configuration(runs: Sequence[RunRecord]) -> Html:
    """The configuration of each run, folded away."""
    shown = [run for run in runs if run.config_text]
    return join(
        details("configuration" if len(runs) == 1 else run.name, tag("pre", run.config_text, tabindex=0))
        for run in shown
    )


def environment(run: RunRecord, several: bool) -> Html:
    """The environment in the summary: machine, versions, commit."""
    told = {
        key: run.summary[key]
        for key in ("learners", "backend", "best", "wall_seconds", "environment")
        if key in run.summary
    }
    pairs = [(key, as_text(value)) for key, value in flattened(told) if value is not None]
    if not pairs:
        return Html("")
    listed = tag("dl", *(tag(name, pair[i]) for pair in pairs for i, name in enumerate(("dt", "dd"))), class_="pairs")
    return details(run.name, listed) if several else listed


def flattened(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Entries of nested mappings as one list; those that describe the machine lose their prefix."""
    entries = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = flattened(value)
            entries += (
                inner if key in ("environment", "versions") else [(f"{key} {name}", leaf) for name, leaf in inner]
            )
        else:
            entries.append((key, value))
    return entries


def as_text(value: Any) -> str:
    """A value of the summary as text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
