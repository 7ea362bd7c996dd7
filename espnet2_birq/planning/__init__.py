"""Parameters, FLOPs, memory and days of a training, before it runs."""
