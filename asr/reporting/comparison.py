"""Several runs at one glance: every figure of every run, and how it differs from that of a baseline."""

import math
from collections.abc import Sequence

from asr.decoding.bootstrap import REPLICATIONS
from asr.decoding.comparison import compare
from asr.decoding.wer import ErrorCounts, count_errors
from asr.reporting import text
from asr.reporting.figures import COSTS, Best, best_evaluation, result_of
from asr.reporting.page import Html, join, table, tag
from asr.reporting.run import Result, RunRecord, Transcript
from asr.reporting.words import backend_word, setting
from asr.runs.metrics import SHOWN

DIFFERENCES = 60  # configuration keys in which compared runs differ
PER_CENT = ("wer", "frame_error")


def comparison(runs: Sequence[RunRecord], baseline: int) -> Html:
    """One line per run, with its differences to run number ``baseline``, and the settings in which the runs differ."""
    titles = list(dict.fromkeys(result.title for run in runs for result in run.results))
    costs = [cost for cost in COSTS if any(math.isfinite(cost.value(run)) for run in runs)]
    header = ["run", "backend", "learners", *(f"WER {title}" for title in titles), "best while training", "at step"]
    header += [cost.title for cost in costs]
    values = [[cost.value(run) for cost in costs] for run in runs]
    rows = []
    for index, run in enumerate(runs):
        is_baseline = index == baseline
        rates = [rate_cell(result_of(run, title), result_of(runs[baseline], title), is_baseline) for title in titles]
        best, other = best_evaluation(run), best_evaluation(runs[baseline])
        cells = [
            cell(cost.form(own), "" if is_baseline else cost.difference(own, reference))
            for cost, own, reference in zip(costs, values[index], values[baseline], strict=True)
        ]
        name = join((f"{index + 1}. {run.name}", tag("span", "baseline", class_="aside") if is_baseline else ""))
        rows.append([name, backend_word(run.config) or text.MISSING, str(run.learners), *rates,
                     best_cell(best, other, is_baseline), step_cell(best, other, is_baseline), *cells])  # fmt: skip
    compared = table(header, rows, "Runs compared", numbers=range(2, len(header)), runs=range(len(runs)))
    return join((tag("p", HOW, class_="note"), compared, differences(runs)))


HOW = (
    "Under each figure: its difference to the baseline, of error rates in percentage points, with the 95 % interval of the paired "
    "difference where both runs recognised the same utterances, and coloured where that interval leaves out zero; of other "
    "figures in percent, or as a factor. The loss is the end of the smoothed curve, the best evaluation that of all."
)


def cell(value: str, difference: str, kind: str = "aside") -> Html:
    """A figure with a remark below."""
    aside = tag("span", difference, class_=kind) if difference and difference != text.MISSING else ""
    return join((value, aside))


def best_cell(best: Best | None, other: Best | None, is_baseline: bool) -> Html:
    """The best evaluation during training, and its difference."""
    if best is None:
        return cell(text.MISSING, "")
    shown = f"{best.set_name}: {SHOWN[best.measure](best.value)}"
    if is_baseline or other is None or (other.set_name, other.measure) != (best.set_name, best.measure):
        return cell(shown, "")
    by = best.value - other.value
    return cell(shown, text.points(by) if best.measure in PER_CENT else text.signed(by))


def step_cell(best: Best | None, other: Best | None, is_baseline: bool) -> Html:
    """The global step of the best evaluation, and its difference."""
    if best is None:
        return cell(text.MISSING, "")
    shown = text.count(best.global_step)
    if is_baseline or other is None or other.set_name != best.set_name:
        return cell(shown, "")
    return cell(shown, text.signed(best.global_step - other.global_step))


# ---------------------------------------------------------------------- word error rates


def rate_cell(result: Result | None, baseline: Result | None, is_baseline: bool) -> Html:
    """A word error rate with its interval, and its difference to the baseline's."""
    if result is None:
        return cell(text.MISSING, "")
    rate = join((text.percent(result.wer), tag("span", text.interval(result.interval), class_="aside")))
    if is_baseline or baseline is None or not math.isfinite(result.wer - baseline.wer):
        return rate
    ends = paired_interval(result.transcripts, baseline.transcripts)
    difference = text.points(result.wer - baseline.wer)
    if ends is None:
        return cell(rate, difference)
    kind = "aside better" if ends[1] < 0 else "aside worse" if ends[0] > 0 else "aside"
    return cell(rate, f"{difference} ({text.points(ends[0])} to {text.points(ends[1])})", kind)


def paired_interval(ours: Sequence[Transcript], others: Sequence[Transcript]) -> tuple[float, float] | None:
    """95 % interval of the difference of two word error rates; None unless both are of the same utterances and texts."""
    counts, other_counts = error_counts(ours), error_counts(others)
    references = {each.utterance_id: each.reference for each in ours}
    if not counts or references != {each.utterance_id: each.reference for each in others}:
        return None
    ends = compare(counts, other_counts, replications=REPLICATIONS, seed=0).interval
    return ends if all(math.isfinite(end) for end in ends) else None


def error_counts(transcripts: Sequence[Transcript]) -> dict[str, ErrorCounts]:
    """Errors of each utterance."""
    return {
        each.utterance_id: count_errors(" ".join(each.reference), " ".join(each.hypothesis)) for each in transcripts
    }


# ---------------------------------------------------------------------- settings


def differences(runs: Sequence[RunRecord]) -> Html:
    """Settings that differ between the runs, as they are typed; their names excepted."""
    rows = []
    for key in sorted({key for run in runs for key in run.config}):
        values = [run.config.get(key, text.MISSING) for run in runs]
        if len({str(value) for value in values}) > 1 and key != "name":
            typed = [setting(key, value) if value != text.MISSING else (key, text.MISSING) for value in values]
            rows.append([setting(key, None)[0], *(value for _, value in typed)])
    if not rows:
        return tag("p", "All settings are the same.", class_="note")
    more = f" The first {DIFFERENCES} of {len(rows)}." if len(rows) > DIFFERENCES else ""
    columns = {index + 1: index for index in range(len(runs))}
    shown = table(
        ["setting", *(run.name for run in runs)], rows[:DIFFERENCES], "Settings that differ", columns_of=columns
    )
    return join((tag("h3", "Settings that differ"), tag("p", more, class_="note") if more else "", shown))
