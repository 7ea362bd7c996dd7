"""Systems x seeds x fine-tuning sets through the recipes' stages, and a report."""
