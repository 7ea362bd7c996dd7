"""Access to layers of ESPnet's encoders, and one additional encoder."""
