"""Groups of options: those of several commands, and those too many for one file."""
