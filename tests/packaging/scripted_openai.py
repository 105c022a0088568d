"""A model behind OpenAI's HTTP API on the loopback, of which a script plays the turns: one tool call, then one answer.

It answers `POST /v1/responses` and `POST /v1/chat/completions`, whole and streamed, as the released `openai` reads them
(https://platform.openai.com/docs/api-reference).
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Generator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextlib.contextmanager
def scripted_openai(code: str, answer: str) -> Generator[str]:
    """Yield the base URL of a model that runs `code` with the tool `run_python`, and then answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            responses = self.path.endswith("/responses")
            reply = (_response if responses else _completion)(request, code, answer)
            if not request.get("stream"):
                self._send("application/json", json.dumps(reply))
                return
            events = _response_events(reply) if responses else _completion_chunks(reply)
            self._send("text/event-stream", "".join(events))

        def _send(self, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _response(request: dict[str, Any], code: str, answer: str) -> dict[str, Any]:
    asked = "function_call_output" in [item["type"] for item in request["input"] if "type" in item]
    item: dict[str, Any]
    if asked:
        content: dict[str, Any] = {"type": "output_text", "text": answer, "annotations": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [content]}
    else:
        arguments = json.dumps({"code": code})
        item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "run_python"}
        item |= {"arguments": arguments, "status": "completed"}
    return {
        "id": "resp_2" if asked else "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "model": request["model"],
        "status": "completed",
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }


def _response_events(reply: dict[str, Any]) -> Iterator[str]:
    (item,) = reply["output"]
    place = {"item_id": item["id"], "output_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**reply, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress"}},
    ]
    if item["type"] == "message":
        text = item["content"][0]["text"]
        events.append(
            {"type": "response.output_text.delta", "content_index": 0, "delta": text, "logprobs": [], **place}
        )
    else:
        arguments = item["arguments"]
        events.append({"type": "response.function_call_arguments.delta", "delta": arguments, **place})
        done = {"type": "response.function_call_arguments.done", "name": item["name"], "arguments": arguments}
        events.append({**done, **place})
    events.append({"type": "response.output_item.done", "output_index": 0, "item": item})
    events.append({"type": "response.completed", "response": reply})
    for number, event in enumerate(events):
        yield f"event: {event['type']}\ndata: {json.dumps({'sequence_number': number, **event})}\n\n"


def _completion(request: dict[str, Any], code: str, answer: str) -> dict[str, Any]:
    if any(message["role"] == "tool" for message in request["messages"]):
        message: dict[str, Any] = {"role": "assistant", "content": answer}
    else:
        function = {"name": "run_python", "arguments": json.dumps({"code": code})}
        tool_calls = [{"id": "call_1", "type": "function", "function": function}]
        message = {"role": "assistant", "content": None, "tool_calls": tool_calls}
    reason = "tool_calls" if "tool_calls" in message else "stop"
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
    }


def _completion_chunks(reply: dict[str, Any]) -> Iterator[str]:
    (choice,) = reply["choices"]
    for index, call in enumerate(choice["message"].get("tool_calls", ())):
        call["index"] = index
    turns: list[tuple[dict[str, Any], str | None]] = [(choice["message"], None), ({}, choice["finish_reason"])]
    for delta, reason in turns:
        choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
        yield f"data: {json.dumps({**reply, 'object': 'chat.completion.chunk', 'choices': choices})}\n\n"
    yield "data: [DONE]\n\n"
