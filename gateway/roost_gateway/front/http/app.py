"""The HTTP front's routes."""

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from roost.contract.reasons import Reason
from roost.contract.refused import Refused
from roost_gateway.front.http.calls import (
    Endpoint,
    Handler,
    HttpCall,
    HttpFront,
    new_request_id,
    request_id_headers,
)
from roost_gateway.front.http.chat import create_chat_completion
from roost_gateway.front.http.completions import create_completion
from roost_gateway.front.http.conversations import (
    create_conversation,
    create_items,
    delete_conversation,
    delete_item,
    get_conversation,
    get_item,
    list_items,
    update_conversation,
)
from roost_gateway.front.http.errors import Api, http_failure
from roost_gateway.front.http.messages import count_tokens, create_message
from roost_gateway.front.http.models import get_model, list_models
from roost_gateway.front.http.responses import cancel_response, create_response, delete_response, get_response

_MESSAGES = "/v1/messages"
"""Anthropic's API begins there."""


def create_app(front: HttpFront) -> Starlette:
    """Makes the ASGI application. Paths that it does not know are a short 404 without authentication."""

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"}) if front.life.ready else JSONResponse({"status": "starting"}, 503)

    def route(method: str, path: str, handler: Handler, api: Api = Api.OPENAI) -> BaseRoute:
        return Route(path, Endpoint(front, path, handler, api), methods=[method])

    routes = [
        Route("/health", health),
        route("GET", "/metrics", show_metrics),
        route("POST", "/v1/chat/completions", create_chat_completion),
        route("POST", "/v1/completions", create_completion),
        route("POST", _MESSAGES, create_message, Api.ANTHROPIC),
        route("POST", f"{_MESSAGES}/count_tokens", count_tokens, Api.ANTHROPIC),
        route("POST", "/v1/responses", create_response),
        route("GET", "/v1/responses/{id}", get_response),
        route("DELETE", "/v1/responses/{id}", delete_response),
        route("POST", "/v1/responses/{id}/cancel", cancel_response),
        route("POST", "/v1/conversations", create_conversation),
        route("GET", "/v1/conversations/{id}", get_conversation),
        route("POST", "/v1/conversations/{id}", update_conversation),
        route("DELETE", "/v1/conversations/{id}", delete_conversation),
        route("GET", "/v1/conversations/{id}/items", list_items),
        route("POST", "/v1/conversations/{id}/items", create_items),
        route("GET", "/v1/conversations/{id}/items/{item}", get_item),
        route("DELETE", "/v1/conversations/{id}/items/{item}", delete_item),
        route("GET", "/v1/models", list_models),
        route("GET", "/v1/models/{model:path}", get_model),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: not_served})
    app.router.redirect_slashes = False
    return app


def not_served(request: Request, error: Exception) -> Response:
    """Reports an unknown path or method, in the form of the API to which the path belongs."""
    assert isinstance(error, HTTPException)
    what = "method is not served" if error.status_code == 405 else "path is not served"
    api = Api.ANTHROPIC if f"{request.url.path}/".startswith(f"{_MESSAGES}/") else Api.OPENAI
    request_id = new_request_id()
    reported = http_failure(api, error.status_code, f"this {what} here", request_id)
    return JSONResponse(
        reported.body, error.status_code, {**(error.headers or {}), **request_id_headers(api, request_id)}
    )


async def show_metrics(call: HttpCall) -> None:
    """Answers with the process's metrics, which tell of all pools. Raises Refused: POOL_NOT_ALLOWED."""
    if "*" not in call.caller.pools:
        raise Refused(Reason.POOL_NOT_ALLOWED, 'metrics are for API keys whose pools are ["*"]')
    encoder, content_type = choose_encoder(call.headers.get("accept", ""))
    headers = {**call.response_headers, "content-type": content_type}
    response = Response(encoder(call.front.telemetry.registry), headers=headers)
    await response(call.scope, call.receive, call.send)
