"""Pretrained models behind the interfaces of other toolkits."""
