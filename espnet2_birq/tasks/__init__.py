"""ESPnet tasks, trainer and samplers, which build models from arguments."""
