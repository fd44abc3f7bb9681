"""A run whose numbers went bad goes on from its newest checkpoint by itself, once, without the batches behind it."""

import json
from pathlib import Path

import pytest

from asr.runs.checkpoint import list_checkpoints
from asr.runs.run_folder import RunFolder
from tests.chaos.injector import Fault
from tests.chaos.trial import STEPS, Trial

NAN = Fault(deed="weights", learner=1, step=10)
RETURNING = "returning to the newest checkpoint by itself"


@pytest.fixture
def trial(tmp_path: Path, tiny_corpus: Path, request: pytest.FixtureRequest) -> Trial:
    """A run of two learners under the scheme that the test names."""
    return Trial(tmp_path, tiny_corpus, request.param, learners=2, extra=("trainer.max_bad_steps=2",))


# Whoever returns begins as a fresh interpreter, which takes seconds; what is long shows the same of other schemes and starters.
OTHERS = [pytest.param(word, marks=pytest.mark.long) for word in ("allreduce", "adpsgd")]


@pytest.mark.parametrize("trial", ["dpsgd", *OTHERS], indirect=True)
def test_a_weight_that_turns_nan_costs_a_return_and_names_the_learner(trial: Trial) -> None:
    trial.start(NAN)
    ended = trial.wait()
    assert ended.codes == [0, 0], ended.printed
    assert RETURNING in ended.printed[0]
    assert "learner 1" in ended.printed[0]
    assert "Traceback" not in "".join(ended.printed)
    folder = RunFolder(trial.run)
    left_out = [json.loads(path.read_text()) for path in sorted(folder.left_out.iterdir())]
    assert 1 <= len(left_out) <= 2
    assert all(each["utterance_ids"] and "learner 1" in each["why"] for each in left_out)
    for checkpoint in list_checkpoints(folder.checkpoints)[0]:
        checkpoint.refuse_non_finite()
    units = [json.loads(folder.metrics_of(rank).read_text().splitlines()[-1])["data/units"] for rank in (0, 1)]
    assert sum(units) == 2 * (STEPS - len(left_out))


@pytest.mark.long
@pytest.mark.parametrize("trial", ["dpsgd"], indirect=True)
def test_a_run_comes_back_under_the_launcher_too(trial: Trial) -> None:
    trial.start_launcher(NAN, restarts=0)
    ended = trial.wait()
    assert ended.codes == [0], ended.printed
    assert RETURNING in ended.printed[0]


@pytest.mark.parametrize("trial", ["allreduce"], indirect=True)
def test_what_happens_again_ends_the_run(trial: Trial) -> None:
    trial.start(NAN, Fault(deed="weights", learner=1, step=20, attempt=1))
    ended = trial.wait()
    assert ended.codes == [2, 2], ended.printed
    assert ended.printed[0].count(RETURNING) == 1
    assert "2 steps in a row had a non-finite loss or gradient, of learner 1 alone" in ended.printed[0].splitlines()[-1]
    found, _ = list_checkpoints(RunFolder(trial.run).checkpoints)
    assert found[-1].progress.global_step == 20


@pytest.mark.parametrize("trial", ["allreduce"], indirect=True)
def test_without_a_checkpoint_the_run_ends_at_once(trial: Trial) -> None:
    trial.start(Fault(deed="weights", learner=1, step=1))
    ended = trial.wait()
    assert ended.codes == [2, 2], ended.printed
    assert RETURNING not in "".join(ended.printed)
