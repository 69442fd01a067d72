"""The converter process: `python -m roost_worker.convert.converter PARENT SOURCE DTYPE TARGET`.

It dies with PARENT, the pid of the process that started it. It reports progress as JSON lines on stdout,
`{"stage", "fraction"}`, or why it fails, `{"error"}` (exit status 1).
"""

import json
import sys
from pathlib import Path

from roost_worker.child_process import die_with_parent
from roost_worker.convert.errors import ConvertError
from roost_worker.convert.from_folder import convert_folder
from roost_worker.convert.gguf_header import check_header


def report(stage: str, fraction: float) -> None:
    """Report progress to the process that started this one."""
    print(json.dumps({"stage": stage, "fraction": round(fraction, 3)}), flush=True)


def convert(source: Path, dtype: str, target: Path) -> None:
    """Write config, weights, tokenizer and template of `source` (GGUF file or folder) into `target`.

    Raise ConvertError with the reason.
    """
    if source.is_dir():
        convert_folder(source, dtype, target, report)
    else:
        header = check_header(source)  # before torch and transformers, which take seconds to import
        from roost_worker.convert.from_gguf import convert_gguf

        convert_gguf(source, header, dtype, target, report)


def main(arguments: list[str]) -> int:
    parent, source, dtype, target = arguments
    die_with_parent(int(parent))
    try:
        convert(Path(source), dtype, Path(target))
    except (ConvertError, OSError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
