"""A small model as a folder of files, as the Hugging Face hub would give it."""

import json
import shutil
from pathlib import Path

from roost_worker.convert.store import ModelStore


def write_hub_folder(folder: Path, scratch: Path) -> None:
    """Makes `folder`, which anybody may read; `scratch` is another one, in which the model is made."""
    prepared = ModelStore(scratch).prepare("dummy://qwen3-tiny", "float32").path
    shutil.copytree(prepared, folder)
    template = json.loads((folder / "template.json").read_bytes())
    (folder / "chat_template.jinja").write_text(template["chat_template"])
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    for name in ("template.json", "revision.json"):
        (folder / name).unlink()
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
