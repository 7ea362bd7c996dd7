"""ESPnet tasks: arguments and class choices in, a model out."""
