"""A model's memory of its last steps: averages that are not part of checkpoints.

They determine when an objective begins, whether labels have collapsed and what is logged.
Training resumed within an epoch needs them; ESPnet's checkpoints, which fine-tuning reads,
do not.
"""

from typing import Any

from espnet2.torch_utils.device_funcs import to_device

WATCHES = ("collapse", "starts", "windows", "paths")  # attributes of BiRQModel


def watches_state(model) -> dict[str, Any]:
    """Return the state of the watches of a BiRQModel or a JointModel.

    Returns:
        Tensors and numbers.
    """
    model = getattr(model, "pretraining", model)
    model.checks.report()
    return {name: getattr(model, name).state() for name in WATCHES}


def restore_watches(model, state: dict[str, Any]) -> None:
    """Set the watches to a state, moved to the model's device.

    Args:
        model: A BiRQModel or JointModel of the same objectives.
        state: From watches_state().
    """
    model = getattr(model, "pretraining", model)
    for name in WATCHES:
        getattr(model, name).restore(to_device(state[name], model.updates.device))
