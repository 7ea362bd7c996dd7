"""The one exception that is the user's to mend."""


class ConfigError(ValueError):
    """A wrong setting. The message is one line: what is wrong, and the remedy.

    Commands print it without a traceback and exit with status 1.
    """
