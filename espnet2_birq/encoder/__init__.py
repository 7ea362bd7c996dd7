"""What is needed around ESPnet's own encoders."""
