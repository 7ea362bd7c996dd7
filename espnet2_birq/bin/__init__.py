"""Commands, to be run as python -m espnet2_birq.bin.<name>."""
