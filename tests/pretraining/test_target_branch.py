"""Teachers that follow the encoder, and several masked copies for one set of labels."""

import pytest
import torch
from test_model import ANCHOR, ENHANCED, GUMBEL, SMALL, make_batch, make_model

from espnet2_birq.errors import ConfigError

TAUGHT = {
    "name": "taught",
    "view": "teacher layer 2",
    "labeller": "random_projection",
    "labeller_conf": {**SMALL, "projection": "whitened"},
}


def learn(model, updates):
    """Make updates; return the encoder's first parameter after each."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.count_updates_of(optimizer)
    path = []
    for _ in range(updates):
        model(*make_batch())[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        path.append(next(model.encoder.parameters()).detach().clone())
    return path


def test_a_teacher_is_a_moving_average_of_the_encoder():
    conf = dict(decay=[[0, 0.5], [4, 0.9]])
    model = make_model([ANCHOR, TAUGHT], teacher_conf=conf).train()
    mine = next(model.teacher.network.parameters())
    expected = mine.clone()
    for update, theirs in enumerate(learn(model, 3), start=1):
        decay = 0.5 + 0.1 * update
        expected = decay * expected + (1 - decay) * theirs
    assert torch.allclose(mine, expected, atol=1e-6)
    assert mine.grad is None and not mine.requires_grad
    buffers = zip(model.teacher.network.buffers(), model.encoder.buffers())
    assert all(torch.equal(one, other) for one, other in buffers)
    resumed = make_model([ANCHOR, TAUGHT], teacher_conf=conf)
    resumed.load_state_dict(model.state_dict())
    codes = [x.eval().label(*make_batch(), "taught")[0] for x in (model, resumed)]
    assert torch.equal(*codes) and codes[0].unique().numel() > 3


def test_a_copy_is_refreshed_every_few_updates():
    conf = dict(decay=0, every=2)
    model = make_model([ANCHOR, TAUGHT], teacher_conf=conf).train()
    mine = next(model.teacher.network.parameters())
    path = learn(model, 3)
    assert torch.equal(mine, path[1]) and not torch.equal(path[1], path[2])


def test_a_teacher_of_decay_1_stays_as_it_was():
    """This includes BatchNorm's statistics, so its labels stay the same."""
    model = make_model([ANCHOR, TAUGHT], teacher_conf=dict(decay=1.0)).train()
    before = {k: x.clone() for k, x in model.teacher.state_dict().items()}
    learn(model, 2)
    for name, value in model.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_only_objectives_of_a_teacher_have_one():
    assert make_model([ANCHOR, ENHANCED]).teacher is None
    with pytest.raises(ConfigError, match="teacher_conf: decay is between 0 and 1"):
        make_model([TAUGHT], teacher_conf=dict(decay=1.5))
    with pytest.raises(
        ConfigError, match="every is a whole number of 1 or more, got 2"
    ):
        make_model([TAUGHT], teacher_conf=dict(every=2.5))
    with pytest.raises(ConfigError, match="no objective has a view 'teacher ...'"):
        make_model([ANCHOR], teacher_conf=dict(decay=0.9))
    with pytest.raises(ConfigError, match="'teacher layer 9' is not among"):
        make_model([{**TAUGHT, "view": "teacher layer 9"}])
    with pytest.raises(ConfigError, match="no gradient flows"):
        make_model([{**ENHANCED, "view": "teacher layer 2", "gradient": 1}])


def test_copies_are_the_mean_over_steps_with_the_same_labels(monkeypatch):
    """Gradients of M masked copies equal the mean of those of M single steps."""
    monkeypatch.setattr(GUMBEL, torch.zeros_like)
    whitened = {**SMALL, "projection": "whitened"}
    enhanced = {**ENHANCED, "labeller_conf": whitened, "diversity": 0.3, "weight": 1.0}
    speech, lengths = make_batch()

    def make(copies):
        conf = dict(copies=copies)
        model = make_model([ANCHOR, enhanced], target_branch_conf=conf).train()
        for norm in model.encoder.modules():  # else a step changes later labels
            if isinstance(norm, torch.nn.BatchNorm1d):
                norm.momentum = 0.0
        return model

    def gradients(model):
        loss, stats, weight = model(speech, lengths)
        model.zero_grad()
        loss.backward()
        return [p.grad.clone() for p in model.parameters()], stats, weight

    passes = []
    together = make(3)
    hidden_states = together.branch.hidden_states
    together.branch.hidden_states = lambda *x: passes.append(1) or hidden_states(*x)
    torch.manual_seed(4)
    ours, stats, weight = gradients(together)
    assert len(passes) == 1 and stats["label_ppl_enhanced"] > 1
    single = make(1)
    torch.manual_seed(4)
    results = [gradients(single)]
    labeller = single.objectives[1].labeller
    labeller.observe = lambda *_: None  # keep the labels of the first step
    results += [gradients(single) for _ in range(2)]
    assert weight == sum(x[2] for x in results)
    for one, *others in zip(ours, *(x[0] for x in results)):
        assert torch.allclose(one, sum(others) / 3, rtol=0, atol=2e-6)
    for key in ("loss_enhanced", "mask_share", "use_ppl_enhanced"):
        mean = sum(x[1][key] for x in results) / 3
        assert torch.allclose(stats[key], mean, atol=1e-5), key


def test_in_evaluation_all_utterances_have_labels():
    """Else dumped labels of every second utterance would be those of zeros."""
    results = []
    for utterances in (1, 2):
        conf = dict(utterances=utterances)
        model = make_model([ANCHOR, ENHANCED], target_branch_conf=conf).eval()
        codes, _ = model.label(*make_batch(), "enhanced")
        loss, stats, _ = model(*make_batch())
        results.append((codes, loss, stats["loss_enhanced"]))
    for one, other in zip(*results):
        assert torch.equal(one, other)


def test_an_encoder_with_outputs_for_intermediate_ctc():
    """As in configurations of fine-tuning, which joint training takes."""
    model, with_ctc = (make_model([ANCHOR, ENHANCED]).train() for _ in range(2))
    with_ctc.encoder.interctc_layer_idx = [1, 2]
    losses = []
    for one in (model, with_ctc):
        torch.manual_seed(1)
        loss = one(*make_batch())[0]
        loss.backward()
        losses.append(float(loss))
    assert losses[0] == losses[1]
