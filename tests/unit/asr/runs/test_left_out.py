"""The list of global batches that a run leaves out."""

from pathlib import Path

from asr.runs.left_out import batches_left_out, confirm, leave_out


def test_what_was_trained_before_the_checkpoint_is_not_left_out(tmp_path: Path) -> None:
    leave_out(tmp_path, (0, 7), ["a"], "NaN")
    leave_out(tmp_path, (0, 8), ["b"], "NaN")
    confirm(tmp_path, (0, 8))  # returned to the end of batch 7
    assert batches_left_out(tmp_path) == [(0, 8)]
    leave_out(tmp_path, (1, 2), ["c"], "NaN")
    confirm(tmp_path, (1, 3))  # a second return; batch 8 of epoch 0 was left out before, and is still listed
    assert batches_left_out(tmp_path) == [(0, 8)]


def test_a_run_without_any_has_an_empty_list(tmp_path: Path) -> None:
    confirm(tmp_path, (0, 0))
    assert batches_left_out(tmp_path) == []
