"""The pretraining method: views, objectives, masking, labellers, losses, statistics."""
