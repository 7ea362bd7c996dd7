"""Pretrained models as other toolkits expect them."""
