"""Error rates of decoded speech."""
