"""The bench of counted bytes, whose namespaces need root: what backends count is what leaves the interface."""

import pytest

from distributed.errors import UsageError
from scripts.bench.namespaces import check_privileges, linked_hosts, run_on
from scripts.bench.traffic import STEPS, row


def test_ratios_are_of_each_learner_and_bytes_of_a_step() -> None:
    records = [{"dpsgd": {"counted": 80.0, "interface": 100.0}}, {"dpsgd": {"counted": 99.0, "interface": 110.0}}]
    found = row("dpsgd", records)
    assert found["by_learner"] == [pytest.approx(0.8), pytest.approx(0.9)]
    assert found["counted"] == pytest.approx(89.5 / STEPS)


@pytest.mark.long
@pytest.mark.parametrize("learners", [2, 4])
def test_counted_bytes_are_those_of_the_interface(learners: int) -> None:
    try:
        check_privileges()
    except UsageError as error:
        pytest.skip(str(error))
    with linked_hosts(learners) as hosts:
        records = run_on(hosts, "traffic_learner.py", "1216", str(STEPS))
    ratios = {scheme: row(scheme, records)["by_learner"] for scheme in records[0]}
    whole = ("adpsgd", "dpsgd", "delay_by_one", "allreduce", "half_allreduce")
    assert all(0.99 < ratio <= 1 for scheme in whole for ratio in ratios[scheme]), ratios
    assert all(0.95 < ratio <= 1 for scheme in ("scalecom", "local_topk") for ratio in ratios[scheme]), ratios
