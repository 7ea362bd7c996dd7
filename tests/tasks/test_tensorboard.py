"""Statistics in TensorBoard are grouped, with objectives side by side."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils import tensorboard
from trainings import Training, write_data

from espnet2_birq.tasks.tensorboard import grouped, grouping


@pytest.mark.parametrize(
    "name, expected",
    [
        ("loss", "loss/all"),
        ("loss_anchor", "loss/anchor"),
        ("window_ppl_late", "window_ppl/late"),
        ("label_ppl_too_late", "label_ppl/too_late"),
        ("iter_time", "time/iter_time"),
        ("optim0_lr0", "optimizer/optim0_lr0"),
        ("grad_norm", "optimizer/grad_norm"),
        ("mask_share", "training/mask_share"),
    ],
)
def test_names(name, expected):
    assert grouped(name, ["too_late", "anchor", "late"]) == expected


def test_another_writer_afterwards():
    before = tensorboard.SummaryWriter
    with pytest.raises(KeyError), grouping(["a"]):
        assert tensorboard.SummaryWriter is not before
        raise KeyError
    assert tensorboard.SummaryWriter is before


def test_a_training(tmp_path):
    write_data(tmp_path)
    options = dict(max_epoch=1, num_iters_per_epoch=4, use_tensorboard=True)
    training = Training(tmp_path, tmp_path / "exp", **options)
    assert training.run() == 0, training.text()[-2000:]
    for kind, time in (("train", "time/iter_time"), ("valid", None)):
        events = EventAccumulator(str(training.out / "tensorboard" / kind))
        events.Reload()
        tags = events.Tags()["scalars"]
        assert {"loss/all", "loss/anchor", "loss/enhanced", "acc/anchor"} <= set(tags)
        assert all("/" in tag for tag in tags)
        assert time is None or time in tags
