"""Text of fine-tuned models by their CTC head, with or without a word n-gram."""
