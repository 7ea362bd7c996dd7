"""Parts of a step: correctness of what the benchmarks count."""

import json
import sys
from pathlib import Path

import pytest
import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import data_path  # noqa: E402
import label_pass  # noqa: E402
import step  # noqa: E402
import two_processes  # noqa: E402

from espnet2_birq.pretraining.masking import SpanMasking  # noqa: E402


@pytest.mark.parametrize("kind", [ConformerEncoder, EBranchformerEncoder])
def test_one_call_has_the_outputs_and_gradients_of_two(kind):
    torch.manual_seed(0)
    encoder = kind(20, output_size=16, attention_heads=2, num_blocks=3).eval()
    clean, masked = torch.randn(2, 3, 80, 20)
    lengths = torch.tensor([80, 60, 50])
    results = []
    for function in (label_pass.two_calls, label_pass.one_call):
        outputs = function(encoder, clean, masked, lengths, 2)
        parameters = list(encoder.encoders[0].parameters())
        total = sum(x.square().sum() for x in outputs)
        results.append((*outputs, *torch.autograd.grad(total, parameters)))
    for two, one in zip(*results):
        assert torch.allclose(two, one, rtol=1e-4, atol=1e-4)


def test_untouched_frames_have_the_same_subsampled_values_in_both_copies():
    torch.manual_seed(0)
    encoder = ConformerEncoder(20, output_size=16, attention_heads=2).eval()
    masking = SpanMasking(20, mask_prob=0.02, mask_length_ms=80.0)
    xs, lengths = torch.randn(4, 400, 20), torch.full((4,), 400)
    shares = []
    for _ in range(20):
        mask = masking.draw(torch.full((4,), 99), 99)
        copies = [
            encoder.embed.conv(x[:, None]) for x in (xs, masking.apply_to(xs, mask))
        ]
        same = (copies[0] == copies[1]).all(dim=3).all(dim=1)  # (B, T')
        shares.append(same.float().mean().item())
    share = label_pass.untouched_share(encoder, masking, lengths, 400)
    assert share == pytest.approx(sum(shares) / 20, abs=0.03)
    assert 0.3 < share < 0.9


def test_padding_and_waiting():
    lengths = dict(a=4, b=4, c=2, d=2, e=9)
    padding, lost = data_path.shares([["a", "b", "c", "d"]], lengths, 1)
    assert padding == lost == pytest.approx(1 - 12 / 16)
    # Two GPUs get a and c, b and d: 8 each; of three, the first gets a and d.
    assert data_path.shares([["a", "b", "c", "d"]], lengths, 2)[1] == 1 - 12 / 16
    assert data_path.shares([["a", "b", "c", "d"]], lengths, 3)[1] == 1 - 12 / 24
    # Batches without an utterance for each GPU are skipped.
    assert data_path.shares([["a", "b"], ["e"]], lengths, 2) == (0.0, 0.0)


def test_bytes_of_two_processes_are_those_of_the_parameters(tmp_path, monkeypatch):
    args = two_processes.argparse.Namespace(
        method="birq", config=str(BENCH / "step.yaml"), bfloat16=False, batch=1
    )
    vars(args).update(seconds=1.0, steps=1, warmup=1, seed=0, device="cpu")
    conf = step.read_config(args.config, "birq")
    conf.encoder_conf = dict(output_size=16, attention_heads=2, num_blocks=8)
    for row in conf.objectives:
        row["labeller_conf"] = dict(codebook_size=32, codebook_dim=4)
    monkeypatch.setattr(two_processes, "read_config", lambda *_: conf)
    all_reduce, threads = torch.distributed.all_reduce, torch.get_num_threads()
    try:  # one rank alone: the hook sees what it would send
        count = two_processes.Count()
        store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        monkeypatch.setattr(torch.distributed, "all_reduce", count.counted)
        model = step.SSLTask.build_model(conf).train()
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        parallel.register_comm_hook(None, count.hook)
        parallel(*step.random_speech(args))[0].backward()
    finally:
        torch.distributed.destroy_process_group()
        torch.set_num_threads(threads)
    assert torch.distributed.all_reduce is not all_reduce
    assert count.gradients == 4 * sum(p.numel() for p in model.parameters())
    # Two labels on one head: number of frames, eight sums, counts of labels and of
    # predictions; in double precision the numbers of masked and labelled frames; and
    # the number of all frames.
    assert count.others == 4 * 2 * (1 + 8 + 2 * 32) + 8 * (1 + 2) + 4


def test_lengths_of_a_larger_corpus(tmp_path):
    known = {str(i): 16000 * i for i in range(1, 21)}
    drawn = data_path.draw_lengths(known, 2.0, tmp_path)
    hours = sum(drawn.values()) / 16000 / 3600
    assert hours == pytest.approx(2.0, rel=0.05)
    assert min(drawn.values()) >= 16000 and max(drawn.values()) <= 20 * 16000
    lines = (tmp_path / "speech_shape").read_text().splitlines()
    assert (
        len(lines) == len(drawn) and json.loads(lines[0].split()[1]) in drawn.values()
    )
