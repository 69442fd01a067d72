"""Loaders of public traces and of the project's own: small files of each format, written here."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from roost_gateway.simulator.formats.load import FORMATS, load
from roost_gateway.simulator.workload import ALL_TOKENS, Session, Turn, longest_context, with_capped_gaps


def written(path: Path, *documents: Any) -> Path:
    """A file with a JSON document a line."""
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return path


def test_agent_sessions(tmp_path: Path) -> None:
    row = {
        "id": "trace_1",
        "m": ["some-model"],
        "bs": 64,
        "tool": 500,
        "sys": 140,
        "r": [
            [0.0, 1000, 50, 15, 0, 2.5, 0.0, "tool_use"],
            [12.0, 1200, 60, 18, 15, 3.0, 9.5, "end_turn"],
            {"t": 20.0, "sub": [[0.0, 300, 5, 4, 0, 1.0, 0.0, "tool_use"]]},
            [30.0, 900, 7, 14, 10, None, None, None],
            [40.0, 1000, 8, 15, 12, 1.0, 1.0, "end_turn"],
        ],
    }
    path = tmp_path / "sessions.jsonl.gz"
    with gzip.open(path, "wt") as lines:
        lines.write(json.dumps(row) + "\n")
    session, subagent = load("agent-sessions", path)
    assert (session.name, session.prefix, session.prefix_tokens) == ("trace_1", "prefix of 640 tokens", 640)
    assert list(session.turns) == [
        Turn(640, 360, 50, 0.0, True, 2.5),
        Turn(1050, 150, 60, 9.5, False, 3.0),
        Turn(640, 260, 7, 30.0 - 12.0 - 3.0, False, None),
        Turn(768, 232, 8, 1.0, False, 1.0),
    ]
    assert subagent == Session("trace_1/agent-0", (Turn(0, 300, 5, 0.0, True, 1.0),), start_seconds=20.0)
    assert longest_context(session) == 1260
    assert [turn.gap_seconds for turn in with_capped_gaps(session, 5.0).turns] == [0.0, 5.0, 5.0, 1.0]


def weka_request(time: float, prompt: int, output: int, blocks: list[int], **more: Any) -> dict[str, Any]:
    return {"t": time, "type": "s", "in": prompt, "out": output, "hash_ids": blocks, "stop": "", **more}


def test_weka(tmp_path: Path) -> None:
    document = {
        "id": "f64a",
        "block_size": 64,
        "tool_tokens": 64,
        "system_tokens": 10,
        "requests": [
            weka_request(0.0, 200, 10, [1, 2, 3], stop="tool_use", api_time=1.5, think_time=0.0),
            weka_request(5.0, 300, 20, [1, 2, 3, 4], api_time=2.0, think_time=3.5),
            {"type": "subagent", "t": 6.0, "requests": [weka_request(1.0, 70, 3, [9])]},
            weka_request(9.0, 280, 5, [1, 7, 8, 9]),
        ],
    }
    written(tmp_path / "b.json", document)
    written(tmp_path / "a.json", {"id": "first", "block_size": 64, "requests": [weka_request(0.0, 10, 1, [])]})
    first, session, subagent = load("weka", tmp_path)
    assert first == Session("first", (Turn(0, 10, 1),))
    assert list(session.turns) == [
        Turn(74, 126, 10, 0.0, True, 1.5),
        Turn(210, 90, 20, 3.5, False, 2.0),
        Turn(64, 216, 5, 2.0, False, None),
    ]
    assert (subagent.name, subagent.start_seconds) == ("f64a/agent-0", 7.0)


def test_mooncake(tmp_path: Path) -> None:
    path = written(
        tmp_path / "trace.jsonl",
        {"timestamp": 0, "input_length": 1100, "output_length": 20, "hash_ids": [1, 2, 3]},
        {"timestamp": 1000, "input_length": 900, "output_length": 5, "hash_ids": [1, 8]},
        {"timestamp": 4000, "input_length": 1700, "output_length": 30, "hash_ids": [1, 2, 4, 5]},
        {"timestamp": 9000, "input_length": 600, "output_length": 1, "hash_ids": [70, 71]},
    )
    first, second, third = load("mooncake", path)
    assert list(first.turns) == [Turn(0, 1100, 20), Turn(1120, 580, 30, 4.0)]
    assert (first.prefix, second.prefix, second.prefix_tokens) == ("", "block 1", 512)
    assert list(second.turns) == [Turn(512, 388, 5)]
    assert [session.start_seconds for session in (first, second, third)] == [0.0, 1.0, 9.0]


def test_azure(tmp_path: Path) -> None:
    path = tmp_path / "code.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,4808,10\n"
        "2023-11-16 18:17:04.0319600,0,8\n"
        "2023-11-16 18:17:05.4799600,110,27\n"
    )
    first, second = load("azure", path)
    assert first == Session("request-0", (Turn(0, 4808, 10),))
    assert (list(second.turns), second.start_seconds) == ([Turn(0, 110, 27)], 1.5)
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-12 00:00:00.001163+00:00,3,4\n2024-05-12 00:00:02+00:00,3,4\n"
    )
    assert [session.start_seconds for session in load("azure", path)] == pytest.approx([0.0, 1.998837])


def test_aiperf(tmp_path: Path) -> None:
    system = {"role": "system", "text": "x" * 400}
    path = written(
        tmp_path / "conversations.jsonl",
        {
            "session_id": "chat",
            "turns": [system, {"text": "y" * 40, "output_length": 50}, {"text": "z", "delay": 1500}],
        },
        {"turns": [system, {"texts": ["ab", "cd"], "timestamp": 2500}]},
    )
    chat, other = load("aiperf", path)
    assert (chat.name, chat.prefix_tokens) == ("chat", 108)
    assert list(chat.turns) == [Turn(ALL_TOKENS, 18, 50), Turn(ALL_TOKENS, 8, 128, 1.5)]
    assert chat.prefix == other.prefix
    assert (other.name, other.start_seconds, list(other.turns)) == ("session-1", 2.5, [Turn(ALL_TOKENS, 9, 128)])


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_another_format_is_refused_with_its_name(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "other.json", {"some": "thing"})
    with pytest.raises(ValueError, match=f"other.json is not of the format {name}"):
        load(name, path)
    with pytest.raises(ValueError, match="no format parquet; there are agent-sessions"):
        load("parquet", path)
