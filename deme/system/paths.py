"""Locators of shipped files and of models on the Hugging Face Hub, and the folders of the package."""

import contextlib
from pathlib import Path
from typing import Protocol

from deme.system.errors import MissingInput, did_you_mean
from deme.system.files import is_weights

PACKAGE = Path(__file__).parents[1]
ASSET = "asset:"
HUB = "hub:"
DATASETS = "datasets:"  # a data set on the Hub, which only deme.data downloads
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
HUB_PICKLES = ["diffusion_pytorch_model*.bin", "unet/*.bin"]  # where there are no safetensors


