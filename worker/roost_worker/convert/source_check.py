"""Refuses a model folder by its small files, before its weights are downloaded or read."""

from pathlib import Path

from roost_worker.convert.sampling_defaults import end_token_ids, read_generation_config, sampling_defaults
from roost_worker.convert.shapes import check_names, expected_shapes
from roost_worker.convert.source_config import is_wrapped, normalised_config, read_config
from roost_worker.convert.weight_files import read_index, tensor_names
from roost_worker.model.config import parse_config


def check_folder(folder: Path) -> None:
    """Raise ConvertError if the config, the generation config or the index are of a model that cannot be run."""
    document = read_config(folder)
    config = parse_config(normalised_config(document, "float32"))
    generation = read_generation_config(folder)
    sampling_defaults(generation)
    end_token_ids(generation)
    if stored := read_index(folder):
        names = tensor_names(stored, wrapped=is_wrapped(document), tied=config.tied_embeddings)
        check_names(expected_shapes(config), names)
