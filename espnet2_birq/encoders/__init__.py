"""What is needed inside ESPnet's encoders, and one encoder more."""
