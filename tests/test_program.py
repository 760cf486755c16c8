import errno

import pytest
import torch

from endofm.errors import RunError
from endofm.program import told_faults


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RunError("clips.csv is empty; mend it."), "error: clips.csv is empty; mend it."),
        (torch.OutOfMemoryError("CUDA"), "ran out of memory; lower optim.batch_size"),
        (OSError(errno.ENOSPC, "No space left", "run/x"), "error: run/x: No space left; make room"),
        (OSError(errno.ENOSPC, "No space left"), "error: No space left; make room"),
    ],
)
def test_a_fault_is_one_sentence_and_status_one(error, told, capsys):
    with pytest.raises(SystemExit) as ended, told_faults():
        raise error
    said = capsys.readouterr().err
    assert ended.value.code == 1 and told in said and said.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("ours"), ValueError("ours")])
def test_what_is_no_fault_of_the_input_keeps_its_trace(error):
    with pytest.raises(type(error)) as raised, told_faults():
        raise error
    assert raised.value is error
