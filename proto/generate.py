"""Generates the Python code of proto/roost/v1, or checks that the committed code is current.

python proto/generate.py          # write
python proto/generate.py --check  # exit 1 and list stale files
"""

import filecmp
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("roost/v1")


def generate(target: Path) -> None:
    """Writes generated code below `target`. Raises RuntimeError when protoc fails."""
    protos = sorted(str(path.relative_to(ROOT)) for path in (ROOT / PACKAGE).glob("*.proto"))
    includes = [f"-I{ROOT}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    if protoc.main(["protoc", *includes, *outputs, *protos]) != 0:
        raise RuntimeError("protoc failed; see its message above")


def stale_files() -> list[str]:
    """Names of committed files that differ from what protoc writes now."""
    with tempfile.TemporaryDirectory() as temp:
        generate(Path(temp))
        fresh = {path.name for path in (Path(temp) / PACKAGE).iterdir()}
        committed = {path.name for path in (ROOT / PACKAGE).glob("*_pb2*")}
        _, different, missing = filecmp.cmpfiles(Path(temp) / PACKAGE, ROOT / PACKAGE, fresh, shallow=False)
        return sorted({*different, *missing, *(committed - fresh)})


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        stale = stale_files()
        if stale:
            print("stale, run `make generate`:", *stale)
        return 1 if stale else 0
    generate(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
