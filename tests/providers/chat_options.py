"""Chat calls for contract tests: every field that a caller may send, with values of every form it may have."""

from __future__ import annotations

from typing import Any

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "schema": {"type": "object", "properties": {}}, "strict": True},
}

#: Field → values. Every field of OpenAI's chat, and what other providers have beyond it.
OPTIONS: dict[str, list[Any]] = {
    "chat_template_kwargs": [{"thinking": False}],
    "context_length_exceeded_behavior": ["truncate"],
    "echo": [True],
    "frequency_penalty": [0.5, None],
    "logit_bias": [{"42": 5}],
    "logprobs": [True, False],
    "max_completion_tokens": [64],
    "max_tokens": [16, None],
    "metadata": [{"k": "v"}],
    "min_p": [0.05],
    "n": [2],
    "parallel_tool_calls": [False],
    "prediction": [{"type": "content", "content": "x"}],
    "presence_penalty": [-1],
    "prompt_cache_key": ["k"],
    "reasoning": [{"enabled": False}],
    "reasoning_effort": ["none", "minimal", "low", "medium", "high", "xhigh"],
    "repetition_penalty": [1.1],
    "response_format": [{"type": "text"}, {"type": "json_object"}, SCHEMA_FORMAT],
    "safety_identifier": ["s"],
    "seed": [7],
    "stop": ["END", ["a", "b"], None],
    "store": [False],
    "stream_options": [{"include_usage": False}, None],
    "temperature": [0, 1.5],
    "tool_choice": ["none", "auto", "required", {"type": "function", "function": {"name": "weather"}}],
    "tools": [[TOOL]],
    "top_k": [40],
    "top_logprobs": [3],
    "top_p": [0.9],
    "user": ["u"],
    "verbosity": ["low"],
    # Never known, by anybody.
    "api_base": ["http://evil.test"],
    "extra_headers": [{"Authorization": "x"}],
}

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}}

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
    ],
    [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            ],
        },
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Sure?"},
    ],
]
