"""Planning of a training run: parameters, FLOPs, memory and days."""
