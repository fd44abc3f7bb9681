"""The parts of a page about recognition: error rates, the worst utterances, alignments."""

from collections.abc import Sequence

from asr.reporting import text
from asr.reporting.lattice import LatticePicture, lattice_figure
from asr.reporting.page import Html, details, join, table, tag
from asr.reporting.run import RunRecord
from asr.reporting.transcripts import confusion_tables, confusions, utterance_list, worst

WORST_UTTERANCES = 12
CONFUSIONS = 12
COLUMNS = (
    "set", "search", "WER", "95 % interval", "CER", "ins", "del", "sub", "words", "utterances", "real-time factor", "decoded in",
)  # fmt: skip


def results_table(runs: Sequence[RunRecord]) -> Html:
    """A table of every evaluation with its errors by kind."""
    several = len(runs) > 1
    header = [*(["run"] if several else []), *COLUMNS]
    rows, of_runs = [], []
    for index, run in enumerate(runs):
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
            speed = [text.figure(result.real_time_factor), result.arithmetic or text.MISSING]
            row = [result.set_name, result.decode, *rates, *counts, *speed]
            rows.append([run.name, *row] if several else row)
            of_runs.append(index)
    if not rows:
        return tag("p", "Not evaluated yet: scripts/evaluate.py writes these figures.", class_="note")
    columns = range(2 + several, len(header) - 1)
    return table(header, rows, "Word and character error rates", numbers=columns, runs=of_runs)


def errors(runs: Sequence[RunRecord]) -> Html:
    """Worst utterances and most frequent confusions of every evaluation of every run."""
    return join(errors_of(run, index if len(runs) > 1 else None) for index, run in enumerate(runs))


def errors_of(run: RunRecord, number: int | None) -> Html:
    """The same of one run: the first evaluation unfolded, unless it is one of several runs and has a ``number``."""
    parts, several = [], number is not None
    for index, result in enumerate(result for result in run.results if result.transcripts):
        utterances = worst(result.transcripts, WORST_UTTERANCES)
        title = f"{run.name}: {result.title}" if several else result.title
        if not utterances:
            parts.append(tag("p", f"{title}: no errors.", class_="note", data_run=number))
            continue
        how = tag("p", tag("del", "said but missed"), " ", tag("ins", "written instead, or added"), class_="note")
        listed = join((how, utterance_list(utterances), confusion_tables(confusions(result.transcripts, CONFUSIONS))))
        unfolded = index == 0 and not several
        parts.append(details(f"{title}: utterances with the most errors", listed, is_open=unfolded, run=number))
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
