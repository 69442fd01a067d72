"""`python -m roost_gateway.front.http.parameter_docs` writes the tables of parameters into docs/http.md."""

import re
from pathlib import Path

from roost_gateway.front.http.chat_body import CHAT
from roost_gateway.front.http.completions import COMPLETIONS
from roost_gateway.front.http.conversations_body import CONVERSATION, CONVERSATIONS, ITEMS
from roost_gateway.front.http.headers import SESSION_HEADERS
from roost_gateway.front.http.messages_body import COUNT_TOKENS, MESSAGES
from roost_gateway.front.http.parameters import ParameterTable, Use
from roost_gateway.front.http.responses_body import RESPONSES

TABLES = (CHAT, RESPONSES, CONVERSATIONS, CONVERSATION, ITEMS, MESSAGES, COUNT_TOKENS, COMPLETIONS)
DOCUMENT = Path(__file__).parents[4] / "docs" / "http.md"
_GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(?=<!-- end -->)", flags=re.S)
_USES = {
    Use.SUPPORTED: "supported",
    Use.IGNORED: "accepted and ignored",
    Use.REFUSED: "refused",
}


def generated(text: str) -> str:
    """Returns the document with its generated parts up to date."""
    parts = {"parameters": parameters(), "headers": headers()}
    return _GENERATED.sub(lambda match: f"{match[1]}{parts[match[2]]}", text)


def parameters() -> str:
    """A table for each endpoint."""
    return "".join(f"\n### `{table.path}`\n\n{_rows(table)}\n" for table in TABLES)


def _rows(table: ParameterTable) -> str:
    lines = ["| parameter | | |", "|---|---|---|"]
    for use, title in _USES.items():
        lines += [f"| `{row.name}` | {title} | {row.note} |" for row in table.rows if row.use is use]
    return "\n".join(lines)


def headers() -> str:
    """The headers that name a conversation."""
    lines = ["| header | sent by |", "|---|---|", *(f"| `{name}` | {who} |" for name, who in SESSION_HEADERS.items())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(generated(DOCUMENT.read_text()))
