"""Check a finished training run by ESPnet's checkpoint.pth."""

from pathlib import Path

from espnet2_birq.checkpoint import load_plain
from espnet2_birq.errors import DataError
from espnet2_birq.reading import refusing


def check_training(model: Path) -> None:
    """Check that training made updates until its end, and saved a model.

    ESPnet stops at the first epoch without a valid update, averages saved
    models, and reports success.

    Args:
        model: Model file to be used, in the experiment's folder.

    Raises:
        DataError: There is no model, or the last epoch had no update.
    """
    if not model.is_file():
        raise DataError(
            f"{model}: training has left no such model; its name comes from "
            "best_model_criterion in the configuration"
        )
    checkpoint = model.parent / "checkpoint.pth"
    if not checkpoint.is_file():  # DeepSpeed's trainer, which does not stop in this way
        return
    state = load_plain(checkpoint, mmap=True)
    with refusing(checkpoint, "not ESPnet's"):
        epoch = state["reporter"]["epoch"]
        values = state["reporter"]["stats"][epoch]["train"]
    # ESPnet reports the norm of finite gradients only.
    if "grad_norm" not in values:
        raise DataError(
            f"{model.parent}: no update was made in epoch {epoch}, where training "
            "stopped: the gradient was never finite, or there were fewer batches than "
            "accum_grad; see train.log, lower the learning rate or accum_grad, and "
            "remove the folder to train anew"
        )
