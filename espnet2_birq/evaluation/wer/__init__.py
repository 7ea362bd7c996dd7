"""Error rates of decoded speech, with confidence intervals."""
