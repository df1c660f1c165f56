"""params.yaml, read and checked."""

from rlvr.config.data import Gsm8k, Prepare, Records
from rlvr.config.load import PARAMS_FILE, Config, check_config, load_config, parse_yaml, read_params, read_yaml
from rlvr.config.model import Model
from rlvr.config.training import Memory

__all__ = [
    "PARAMS_FILE",
    "Config",
    "Gsm8k",
    "Memory",
    "Model",
    "Prepare",
    "Records",
    "check_config",
    "load_config",
    "parse_yaml",
    "read_params",
    "read_yaml",
]
