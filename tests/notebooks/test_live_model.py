"""A notebook calls a model over its provider's API, if one is configured."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@dataclass
class Provider:
    """OpenAI's chat completions, as far as one agent needs them; the script of the examples plays the model."""

    script: Any
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(request)
        results = [message["content"] for message in request["messages"] if message["role"] == "tool"]
        turn = self.script.next_turn(results)
        if isinstance(turn, str):
            return {"role": "assistant", "content": turn}
        functions = [tool["function"] for tool in request["tools"]]
        (tool,) = [function["name"] for function in functions if "code" in function["parameters"]["properties"]]
        call = {"name": tool, "arguments": json.dumps({"code": turn.code})}
        calls = [{"id": f"call-{len(results)}", "type": "function", "function": call}]
        return {"role": "assistant", "content": turn.thought, "tool_calls": calls}


@pytest.fixture
def provider(script: Any) -> Iterator[Provider]:
    provider = Provider(script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = provider.answer(request)
            choice = {
                "index": 0,
                "message": message,
                "finish_reason": "tool_calls" if "tool_calls" in message else "stop",
            }
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            completion = {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": request["model"],
                "usage": usage,
            }
            body = json.dumps({**completion, "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's own name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield provider
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("bubblewrap")
def test_the_configured_model_is_used_and_named(build: Any, provider: Provider, script: Any) -> None:
    executed = build.execute(
        NOTEBOOKS / "semantic_kernel_agent.ipynb",
        GREENROOM_POOL="bubblewrap:",
        GREENROOM_DEMO_MODEL="openai:a-model",
        OPENAI_API_KEY="none",
        OPENAI_BASE_URL=provider.url,
    )
    shown = "".join(output.get("text", "") for cell in executed.cells for output in cell.get("outputs", []))
    assert shown.startswith("Model: openai:a-model\n")
    assert "script" not in shown
    assert {request["model"] for request in provider.requests} == {"a-model"}
    assert len(provider.requests) == len(script.SCRIPT) + 1
    assert "1. Oman: +38.1 years" in provider.requests[-1]["messages"][-3]["content"], "what the sandbox computed"
