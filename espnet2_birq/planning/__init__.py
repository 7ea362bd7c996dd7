"""Planning of parameters, FLOPs, memory and days of a training."""
