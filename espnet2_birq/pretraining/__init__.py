"""The method: views, objectives, masking, labellers, losses, statistics."""
