"""A real model and real data for tests and the demo, in a cache that git ignores; filled by `make real-inputs`."""

from tests.real_inputs.cache import cache_dir, data_file, minilm_dir, require, smollm2_dir, template_dir
from tests.real_inputs.errors import RealInputsError

__all__ = ["RealInputsError", "cache_dir", "data_file", "minilm_dir", "require", "smollm2_dir", "template_dir"]
