"""The method: masking, targets, quantizers, loss and statistics."""
