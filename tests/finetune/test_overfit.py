"""Eight clips are learned by heart through the program's own pieces: nothing is lost on the way.

Detection has its own in tests/tasks/test_detection.py.
"""

import pytest
from accelerate.state import AcceleratorState

from finetune.evaluate import Evaluate, evaluate
from finetune.train import finetune
from tests.labelled import PLAIN, small_finetune, write_labelled


@pytest.mark.parametrize(
    ("kind", "epochs", "figure"),
    [("classification", 12, "accuracy"), ("segmentation", 40, "dice")],
)
def test_eight_clips_are_learned_by_heart(tmp_path, kind, epochs, figure):
    manifest = write_labelled(tmp_path / "corpus", 12, num_frames=2, splits=("train", "train"))
    config = small_finetune(
        manifest, tmp_path / "run", kind=kind, epochs=epochs, batch_size=4, lr_per_256=0.15,
        val_share=0.01, **PLAIN,
    )  # fmt: skip
    out = finetune(config)
    AcceleratorState._reset_state(True)
    figures = evaluate(Evaluate(out, manifest, split="train", workers=0))
    assert figures.values[figure].value > 0.9
