"""run_mlm.py from end to end, through its front door."""

import json

import pytest

from conftest import FAMILIES, SAMPLE


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_trains_two_steps(family, checkpoint, run_mlm_script, tmp_path):
    code, out, err = run_mlm_script(
        "--model_name_or_path", checkpoint(family), "--train_file", SAMPLE, "--max_seq_length", 32, "--do_train",
        "--do_eval", "--max_steps", 2, "--per_device_train_batch_size", 4, "--output_dir", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["eval_loss"] < 8
