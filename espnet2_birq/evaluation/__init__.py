"""From models to tables: decoding, error rates, phones."""
