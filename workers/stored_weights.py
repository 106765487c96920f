"""A base's weights as they are stored, in a folder or on a hub; nothing of them is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download

from jobs.errors import BaseModelError
from workers.weight_files import PICKLED, SAFETENSORS, TYPES, find_weights


def look_at_weights(name: str, revision: str | None) -> str | None:
    """Check that the weights are there and whole, as far as that shows without reading them.

    Args:
        name: A folder, or a hub's id of the model.
        revision: Of the model on the hub.

    Returns:
        The type that they are stored in, as `model.dtype` spells it; `None` where it cannot be told.

    Raises:
        BaseModelError: They are not, with what to do.
    """
    if Path(name).is_dir():
        return find_weights(Path(name)).dtype
    try:
        files = set(HfApi().list_repo_files(name, revision=revision))
    except Exception:  # not to be reached now; the config came from the cache, and so may the weights
        return None
    kind = next((one for one in (*SAFETENSORS, *PICKLED) if one in files), None)
    if kind is None:
        raise BaseModelError(
            f"the model has no weights that can be loaded: neither {SAFETENSORS[0]} nor {PICKLED[0]} is among its "
            "files; name the repository that it was made from",
            value=name,
        )
    try:
        first = kind
        if kind.endswith(".index.json"):
            index = Path(hf_hub_download(name, kind, revision=revision)).read_bytes()
            shards = sorted(set(json.loads(index)["weight_map"].values()))
            if missing := [shard for shard in shards if shard not in files]:
                raise BaseModelError(
                    f"{len(missing)} of {len(shards)} files of the weights are missing on the hub, the first is "
                    f"{missing[0]}; name another revision",
                    field="model.revision",
                    value=revision,
                )
            first = shards[0]
        if not first.endswith(".safetensors"):
            return None
        tensors = HfApi().parse_safetensors_file_metadata(name, first, revision=revision).tensors
    except BaseModelError:
        raise
    except Exception:  # as above
        return None
    return next((TYPES[one.dtype] for one in tensors.values() if one.dtype in TYPES), None)
