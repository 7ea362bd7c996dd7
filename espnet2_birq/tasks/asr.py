"""ESPnet's ASR task with one more encoder: ``shaw_conformer``.

ESPnet has no registry, but its class choices are module-level objects: importing this
module adds the encoder to them, for ESPnet's own ASRTask, too.
"""

from espnet2.tasks.asr import ASRTask as ESPnetASRTask
from espnet2.tasks.asr import encoder_choices

from espnet2_birq.encoder.shaw_conformer import ShawConformerEncoder

encoder_choices.classes["shaw_conformer"] = ShawConformerEncoder


class ASRTask(ESPnetASRTask):
    """ESPnet's ASR task, nothing changed.

    It is a class of this module for the sake of training on several GPUs: the processes
    that ESPnet spawns receive ``ASRTask.main_worker``, import the module its class is
    defined in, and thereby know the encoder.
    """
