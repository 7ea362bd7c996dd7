"""Error rates of decoded speech, with their intervals."""
