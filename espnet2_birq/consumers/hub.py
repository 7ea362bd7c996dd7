"""Models on the Hugging Face hub: save_pretrained, from_pretrained, push_to_hub."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import ModelHubMixin
from safetensors.torch import save_file

from espnet2_birq.config import read_config
from espnet2_birq.errors import ConfigError
from espnet2_birq.experiments.card import write_card
from espnet2_birq.pretrained import WINDOW, PretrainedModel
from espnet2_birq.tasks.loading import SAFETENSORS, fetch, find_model, load_model

# Arguments that versions of huggingface_hub before 1.0 always give
OF_OLDER_HUBS = {"proxies", "resume_download"}
# Options that define a model; others, with their local paths, are not published.
KEYS = ("frontend", "specaug", "normalize", "encoder", "objectives", "version")
CONFS = (
    *("frontend", "specaug", "normalize", "encoder", "model"),
    *("masking", "target_branch", "teacher", "tokenizer"),
)


class HubModel(
    PretrainedModel,
    ModelHubMixin,
    library_name="espnet",
    tags=["espnet", "audio", "self-supervised-learning", "feature-extraction"],
):
    """PretrainedModel that is saved and loaded through the hub's interface.

    ``HubModel.from_pretrained("exp/ssl_train_birq_raw").save_pretrained("mine")`` writes
    the tensors (model.safetensors), the configuration (config.yaml) and a model card
    (README.md); api.load and birq's commands can read that folder, too.

    Args:
        model: Pretrained model.
        window: Longest audio in one pass, in seconds; see PretrainedModel.

    Attributes:
        license: Identifier for the card, e.g. cc-by-4.0.
    """

    license: str | None = None
    _source: Path | None = None  # model file

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        device: str = "cpu",
        window: float | None = WINDOW,
        **kwargs: Any,
    ) -> "HubModel":
        """Load a folder, or a model on the hub; called by from_pretrained().

        Raises:
            ConfigError: An option is unknown, or the model cannot be loaded.
        """
        unknown = kwargs.keys() - OF_OLDER_HUBS
        if unknown:
            raise ConfigError(
                f"from_pretrained: no option '{min(unknown)}'; of the model there are "
                "device and window"
            )
        path = Path(model_id)
        if not path.exists():
            path = fetch(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        file = find_model(path)
        if file.suffix == ".zip":
            raise ConfigError(f"{file}: unpack it, and give its folder")
        found = cls(load_model(file, device), window)
        found._source = file
        return found

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the model into a folder; called by save_pretrained().

        Raises:
            ConfigError: The model is not from from_pretrained(), or the folder is an
                experiment's.
        """
        if self._source is None:
            raise ConfigError("save_pretrained: the model is not from from_pretrained")
        config, weights = save_directory / "config.yaml", save_directory / SAFETENSORS
        if config.exists() and not weights.exists():  # may be the model's own source
            raise ConfigError(
                f"{save_directory}: is an experiment's folder, whose config.yaml would be "
                "replaced; give another one to save_pretrained"
            )
        options = vars(read_config(self._source))
        kept: dict[str, Any] = {key: options.get(key) for key in KEYS}
        kept |= {f"{key}_conf": options.get(f"{key}_conf") or {} for key in CONFS}
        kept |= {"init": None, "ngpu": 0}
        if "stats_file" in kept["normalize_conf"]:
            stats = Path(kept["normalize_conf"]["stats_file"])
            if stats.resolve() != (save_directory / stats.name).resolve():
                shutil.copy(stats, save_directory / stats.name)
            kept["normalize_conf"] |= {"stats_file": stats.name}
        save_file(_separate(self.model.state_dict()), weights)
        config.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
        card = self._source.parent / "README.md"
        if (self._source.parent / "train.log").is_file():
            write_card(
                self._source,
                save_directory / "README.md",
                self.license,
                published=save_directory,
            )
        elif (
            card.is_file() and self._source.parent.resolve() != save_directory.resolve()
        ):
            shutil.copy(card, save_directory / "README.md")


def _separate(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors, since safetensors refuses tensors that share memory."""
    return {name: x.detach().cpu().clone().contiguous() for name, x in state.items()}
