"""The page `/docs`: the routes and types of the OpenAPI description as plain HTML, without a script and a network."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}"
    "summary{cursor:pointer;padding:.2rem 0}code,pre{font:13px ui-monospace,monospace}"
    "pre{background:#f4f4f4;padding:.6rem;overflow-x:auto}td{padding:0 1rem .2rem 0;vertical-align:top}"
)
HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


async def docs_page(request: Request) -> HTMLResponse:
    """Show the routes of the server."""
    return HTMLResponse(render(request.app.openapi()), headers=HEADERS)


def render(schema: Mapping[str, Any]) -> str:
    """Return an OpenAPI description as a page.

    Args:
        schema: The description. Its texts are escaped.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            groups[operation.get("tags", ["server"])[0]].append(_operation(method, path, operation))
    routes = "".join(f"<h2>{escape(group)}</h2>{''.join(parts)}" for group, parts in groups.items())
    kinds = schema.get("components", {}).get("schemas", {})
    types = "".join(_details(f"<code>{escape(name)}</code>", _json(kind)) for name, kind in sorted(kinds.items()))
    title = escape(f"{schema['info']['title']} {schema['info']['version']}")
    about = 'As a description for programs: <a href="openapi.json">openapi.json</a>.'
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1><p>{escape(schema['info'].get('summary', ''))}</p><p>{about}</p>{routes}<h2>Types</h2>{types}"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    text = operation.get("description") or operation.get("summary", "")
    first, _, _ = text.partition("\n")
    scopes = [scope for one in operation.get("security", ()) for scope in one.get("ApiKey", ())]
    key = f"Scope of the key: {' or '.join(scopes)}." if scopes else "Needs no key."
    parts = [f"<p>{escape(text)}</p><p>{escape(key)}</p>", _parameters(operation)]
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body ({escape(kind)}):</p>{_json(content.get('schema', {}))}")
    for status, reply in operation["responses"].items():
        found = [_json(content["schema"]) for content in reply.get("content", {}).values() if content.get("schema")]
        parts.append(f"<p>{escape(status)}: {escape(reply['description'])}</p>{''.join(found)}")
    return _details(f"<code>{escape(method.upper())} {escape(path)}</code> {escape(first)}", "".join(parts))


def _parameters(operation: Mapping[str, Any]) -> str:
    rows = (
        f"<tr><td><code>{escape(one['name'])}</code><td>{escape(one['in'])}<td>"
        f"<code>{escape(json.dumps(one['schema']))}</code>"
        for one in operation.get("parameters", ())
    )
    return f"<table>{''.join(rows)}</table>"


def _details(summary: str, inner: str) -> str:
    return f"<details><summary>{summary}</summary>{inner}</details>"


def _json(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
