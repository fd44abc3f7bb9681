"""The report's section on compression: of gradients on their way, and of the model's numbers.

docs/methods/compressed-gradients.md and selection_diagnostics.md say what the metrics under ``comm/`` mean,
docs/methods/qat_int4.md those of quantisers.
"""

from collections.abc import Sequence

from asr.reporting import text
from asr.reporting.page import Html
from asr.reporting.plots import Curve, curve_chart, keys_chart
from asr.reporting.run import RunRecord

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
SHOWN = frozenset({RATIO.key, UNION.key, *PAYLOAD, *AGREEMENT, *AGES, *BOUNDS})


def is_of_compression(key: str) -> bool:
    """True if this section of the page shows the metric."""
    return key in SHOWN


def compression_charts(records: Sequence[RunRecord]) -> list[Html]:
    """Charts of compression ratio, payload, selection and quantisers' bounds; charts without data are left out."""
    charts = [
        curve_chart(records, RATIO),
        keys_chart(
            records, PAYLOAD, "payload", "Payload of a step", "bytes, mean over learners", form=text.compact_bytes
        ),
        keys_chart(records, AGREEMENT, "agreement", "Agreement of learners' selections", "fractions and cosines"),
        curve_chart(records, UNION),
        keys_chart(records, AGES, "ages", "Age of an entry", "steps since it was last sent"),
        keys_chart(records, BOUNDS, "bounds", "Bounds of quantisers", "of all quantisers of activations"),
    ]
    return [chart for chart in charts if chart is not None]
