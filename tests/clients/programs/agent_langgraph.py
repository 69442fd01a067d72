"""A ReAct agent of `langgraph` with `langchain-openai`: `agent_langgraph.py stream|whole`. Prints its answer."""

import sys

import files
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

streaming = sys.argv[1] == "stream"
model = ChatOpenAI(model=files.MODEL, base_url=f"{files.BASE_URL}/v1", api_key="unused", streaming=streaming)
tools = [tool(files.read)]


def call_model(state):
    return {"messages": [model.bind_tools(tools).invoke([("system", files.SYSTEM), *state["messages"]])]}


graph = StateGraph(MessagesState)
graph.add_node("model", call_model)
graph.add_node("tools", ToolNode(tools))
graph.add_edge(START, "model")
graph.add_conditional_edges("model", tools_condition)
graph.add_edge("tools", "model")
print(graph.compile().invoke({"messages": [("user", files.TASK)]})["messages"][-1].content)
