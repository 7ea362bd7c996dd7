"""ssl_train that prints seeds; hidden states of utterance u3 are infinite, as by overflow."""

import torch

from espnet2_birq.bin import ssl_train
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.ranks import rank

_encode = BiRQModel._encode_masked


def _spoiled(self, batch, mask, rows):
    if self.training:
        print(f"rank {rank()}: seed {torch.initial_seed()}", flush=True)
    hidden = _encode(self, batch, mask, rows)
    if self.training and "u3" in batch.utterances:
        hidden = hidden._replace(last=hidden.last * torch.inf)
    return hidden


if __name__ == "__main__":
    BiRQModel._encode_masked = _spoiled
    ssl_train.main()
