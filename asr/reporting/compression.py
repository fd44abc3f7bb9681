"""The report's section on compression: of gradients on their way, and of the model's numbers.

docs/methods/compressed-gradients.md and selection_diagnostics.md say what the metrics under ``comm/`` mean,
docs/methods/qat_int4.md those of quantisers.
"""

from collections.abc import Sequence

from asr.reporting import text
from asr.reporting.page import Html, grid, join, tag
from asr.reporting.plots import Curve, curve_chart, keys_chart
from asr.reporting.run import RunRecord
from distributed.sparse.regime import ENOUGH

RATIO = Curve("comm/compression_ratio", "Compression of gradients", "uncompressed bytes over payload")
PAYLOAD = {
    "comm/payload_values": "values",
    "comm/payload_indices": "indices",
    "comm/payload_uncompressed": "uncompressed parameters",
}
AGREEMENT = {
    "comm/index_overlap": "index overlap",
    "comm/memory_cosine": "cosine of memories",
    "comm/contraction": "part not sent",
}
UNION = Curve("comm/local_union", "Union of local choices", "distinct positions over k")
AGES = {"comm/age_p50": "median", "comm/age_p95": "95th percentile", "comm/age_max": "largest"}
BOUNDS = {"qat_int4/smallest_bound": "smallest", "qat_int4/largest_bound": "largest"}
PAYMENTS = Curve("comm/payments", "Payments of what is not sent", "steps x beta / rate")
STABILITY = Curve(
    "comm/stability", "Stability of debts", "lr l rate / (1 - momentum) over its limit; above 1 debts grow"
)
SHOWN = frozenset({RATIO.key, UNION.key, PAYMENTS.key, STABILITY.key, *PAYLOAD, *AGREEMENT, *AGES, *BOUNDS})


def is_of_compression(key: str) -> bool:
    """True if this section of the page shows the metric."""
    return key in SHOWN


def compression_section(records: Sequence[RunRecord]) -> Html:
    """What is amiss, in words, above the charts."""
    warned = [tag("p", line, class_="note") for record in records for line in warnings_of(record)]
    return join((*warned, grid(compression_charts(records))))


def warnings_of(record: RunRecord) -> list[str]:
    """Which of the two laws of distributed/sparse/regime.py the run does not keep so far."""
    paid, stability = record.last(PAYMENTS.key), record.last(STABILITY.key)
    found = []
    if paid < ENOUGH:  # False for NaN
        found.append(
            f"{record.name}: what was not sent was paid {text.figure(paid)} times (steps x beta / rate); runs that end "
            f"below {ENOUGH:g} have lost accuracy."
        )
    if stability > 1:
        found.append(
            f"{record.name}: along what learners owe the learning rate is {text.figure(stability)} times the highest at "
            "which debts shrink."
        )
    return found


def compression_charts(records: Sequence[RunRecord]) -> list[Html]:
    """Charts of compression ratio, payload, selection and quantisers' bounds; charts without data are left out."""
    charts = [
        curve_chart(records, RATIO),
        keys_chart(
            records, PAYLOAD, "payload", "Payload of a step", "bytes, mean over learners", form=text.compact_bytes
        ),
        keys_chart(records, AGREEMENT, "agreement", "Agreement of learners' selections", "fractions and cosines"),
        curve_chart(records, UNION),
        curve_chart(records, PAYMENTS),
        curve_chart(records, STABILITY),
        keys_chart(records, AGES, "ages", "Age of an entry", "steps since it was last sent"),
        keys_chart(records, BOUNDS, "bounds", "Bounds of quantisers", "of all quantisers of activations"),
    ]
    return [chart for chart in charts if chart is not None]
