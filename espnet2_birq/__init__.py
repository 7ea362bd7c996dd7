"""BiRQ and BEST-RQ speech pretraining as an ESPnet2 task."""

__version__ = "0.2.0"
