"""Help of options that take a pretrained model."""


def model_help(packed: bool = True, untrained: bool = False) -> str:
    """Return the help of an option that takes a pretrained model.

    Args:
        packed: Whether the model may be a zip.
        untrained: Whether a configuration may stand for an untrained model.
    """
    text = f"pretrained model: file, folder{', zip' * packed} or name on the hub"
    return text + ", or a configuration (.yaml), for an untrained one" * untrained
