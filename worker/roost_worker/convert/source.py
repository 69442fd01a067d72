"""Names of model sources: `pypi://`, `hf://`, `file://`, `dummy://`. Pure."""

import re
from dataclasses import dataclass

from roost_worker.convert.errors import ConvertError

_FORMS = "use pypi://distribution/path/in/wheel, hf://organisation/name, file:///path or dummy://name"
_DISTRIBUTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(==[A-Za-z0-9.+!_-]+)?")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9._/-]+)?")


@dataclass(frozen=True, slots=True)
class Source:
    """A model's source. `name` is the distribution (`name` or `name==version`), the repository (`org/name` or
    `org/name@revision`), the absolute path or the dummy's name; `member` is the path inside a wheel."""

    scheme: str
    name: str
    member: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.name}" + (f"/{self.member}" if self.member else "")


def parse_source(text: str) -> Source:
    """Parse a source's name. Raise ConvertError naming the four forms."""
    scheme, separator, rest = text.partition("://")
    if not separator or not rest:
        raise ConvertError(f"{text!r} is not a model source; {_FORMS}")
    match scheme:
        case "pypi":
            return _pypi(text, rest)
        case "hf" if _REPOSITORY.fullmatch(rest):
            return Source("hf", rest)
        case "file" if rest.startswith("/"):
            return Source("file", rest)
        case "dummy":
            return Source("dummy", rest)
    raise ConvertError(f"{text!r} is not a model source; {_FORMS}")


def _pypi(text: str, rest: str) -> Source:
    distribution, _, member = rest.partition("/")
    parts = member.split("/")
    if not _DISTRIBUTION.fullmatch(distribution) or "" in parts or ".." in parts:
        raise ConvertError(f"{text!r} must be pypi://distribution/path/in/wheel (or pypi://distribution==version/…)")
    return Source("pypi", distribution, member)
