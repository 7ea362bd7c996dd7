"""ESPnet tasks, trainer and samplers: arguments and class choices in, a model out."""
