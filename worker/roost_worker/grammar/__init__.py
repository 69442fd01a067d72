"""Constrained output: JSON schemas and tool calls as llguidance grammars, and the token masks that follow from them."""

from roost_worker.grammar.build import build_json_schema, build_tool_call
from roost_worker.grammar.compile_pool import CompilePool
from roost_worker.grammar.compile_process import CompileSetup, CompileUnavailableError
from roost_worker.grammar.compiler import GrammarCompiler, GrammarState, fill_masks
from roost_worker.grammar.errors import GrammarError
from roost_worker.grammar.tool_schema import ToolSchema, tool_schema

__all__ = [
    "CompilePool",
    "CompileSetup",
    "CompileUnavailableError",
    "GrammarCompiler",
    "GrammarError",
    "GrammarState",
    "ToolSchema",
    "build_json_schema",
    "build_tool_call",
    "fill_masks",
    "tool_schema",
]
