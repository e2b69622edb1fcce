// OpenAI's own client for Node. Prints what it saw of each feature, as the clients in Python do.

import { createRequire } from "node:module";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.CLIENT_URL, apiKey: "none", maxRetries: 0, timeout: 300_000 });
const QUESTION = "A walk by the lake?";
const TEXT = "A walk by the lake";
const ASK = { model: "base", messages: [{ role: "user", content: QUESTION }], max_tokens: 8 };
const GREEDY = { ...ASK, temperature: 0 };
const OWN = { ...GREEDY, model: "user/ann", max_tokens: 40, mode: "personal" };
const RAW = { model: "base", prompt: TEXT, max_tokens: 6, temperature: 0 };
const INPUT = { model: "base", input: QUESTION, max_output_tokens: 16, temperature: 0 };
const SCHEMA = {
  type: "object",
  properties: { at: { type: "string", enum: ["lake"] } },
  required: ["at"],
  additionalProperties: false,
};
const TOOL = { type: "function", function: { name: "weather", parameters: SCHEMA, strict: true } };
const CALL = { id: "call1", type: "function", function: { name: "weather", arguments: '{"at": "lake"}' } };

class Refused {
  constructor(why) {
    this.why = why;
  }
}

function check(holds, message) {
  if (!holds) throw new Error(message);
}

function same(found, wanted) {
  check(JSON.stringify(found) === JSON.stringify(wanted), `${JSON.stringify(found)} is not ${JSON.stringify(wanted)}`);
}

function said(text) {
  check(text, `no text: ${JSON.stringify(text)}`);
  return text;
}

const ask = (body) => client.chat.completions.create(body);
const textOf = async (body) => said((await ask(body)).choices[0].message.content);
const thinkingOf = (message) => message.reasoning_content ?? message.reasoning ?? "";

async function all(stream) {
  const found = [];
  for await (const one of await stream) found.push(one);
  return found;
}

async function deltas(body) {
  return (await all(ask({ ...body, stream: true }))).flatMap((chunk) => chunk.choices.map((choice) => choice.delta));
}

function sameStream(pieces, whole) {
  check(pieces.filter(Boolean).length > 1, `one piece: ${JSON.stringify(pieces)}`);
  same(pieces.join(""), whole);
}

async function mustFail(kind, word, call) {
  let failure;
  try {
    await call;
  } catch (error) {
    failure = error;
  }
  check(failure instanceof kind, `no ${kind.name}: ${failure}`);
  check(failure.message.includes(word), `${word} is not in ${failure.message}`);
}

const features = {
  async list_models() {
    check((await all(client.models.list())).some((model) => model.id === "base"), "no base");
  },
  async retrieve_model() {
    same((await client.models.retrieve("user/ann")).id, "user/ann");
  },
  async chat() {
    const answer = await ask(ASK);
    said(answer.choices[0].message.content);
    check(["stop", "length"].includes(answer.choices[0].finish_reason), "no end");
    check(answer.usage.completion_tokens > 0 && answer.usage.completion_tokens <= 8, "another count");
  },
  async chat_stream() {
    sameStream((await deltas(GREEDY)).map((delta) => delta.content ?? ""), await textOf(GREEDY));
  },
  async content_parts() {
    const messages = [{ role: "user", content: [{ type: "text", text: QUESTION }] }];
    same(await textOf({ ...GREEDY, messages }), await textOf(GREEDY));
  },
  async system_roles() {
    for (const role of ["system", "developer"])
      await textOf({ ...GREEDY, messages: [{ role, content: "Be brief." }, ...ASK.messages] });
  },
  async tool_turn() {
    const messages = [
      ...ASK.messages,
      { role: "assistant", content: null, tool_calls: [CALL] },
      { role: "tool", tool_call_id: "call1", content: "sunny" },
    ];
    for (const model of ["base", "user/ann"]) await textOf({ ...GREEDY, model, messages });
  },
  async tools() {
    const choice = { type: "function", function: { name: "weather" } };
    let answer;
    try {
      answer = await ask({ ...GREEDY, tools: [TOOL], tool_choice: choice, max_tokens: 120 });
    } catch (error) {
      check(error instanceof OpenAI.BadRequestError && error.message.includes("tool_call_parser"), error.message);
      return new Refused("the server was started without a parser of tools");
    }
    const [call] = answer.choices[0].message.tool_calls;
    same([call.function.name, JSON.parse(call.function.arguments)], ["weather", { at: "lake" }]);
  },
  async two_answers() {
    same((await ask({ ...ASK, n: 2 })).choices.map((choice) => choice.index), [0, 1]);
  },
  async seed() {
    const body = { ...ASK, temperature: 1, seed: 7 };
    same(await textOf(body), await textOf(body));
  },
  async logprobs() {
    const answer = await ask({ ...GREEDY, logprobs: true, top_logprobs: 2 });
    same(answer.choices[0].logprobs.content.map((token) => token.top_logprobs.length), Array(8).fill(2));
  },
  async json_schema() {
    const format = { type: "json_schema", json_schema: { name: "place", schema: SCHEMA, strict: true } };
    same(JSON.parse(await textOf({ ...GREEDY, response_format: format, max_tokens: 60 })), { at: "lake" });
  },
  async stream_usage() {
    const chunks = await all(ask({ ...GREEDY, stream: true, stream_options: { include_usage: true } }));
    same(chunks.at(-1).usage.completion_tokens, (await ask(GREEDY)).usage.completion_tokens);
  },
  async max_completion_tokens() {
    const { max_tokens, ...body } = GREEDY;
    same((await ask({ ...body, max_completion_tokens: 5 })).usage.completion_tokens, 5);
  },
  async personal() {
    same((await ask(OWN)).mindprint.mode, "personal");
  },
  async reasoning() {
    said(thinkingOf((await ask(OWN)).choices[0].message));
  },
  async reasoning_stream() {
    sameStream((await deltas(OWN)).map(thinkingOf), thinkingOf((await ask(OWN)).choices[0].message));
  },
  async reasoning_tokens() {
    const usage = (await ask(OWN)).usage;
    const count = usage.completion_tokens_details.reasoning_tokens;
    check(count > 0 && count < usage.completion_tokens, `${count} of ${usage.completion_tokens}`);
  },
  async completions() {
    const answer = await client.completions.create(RAW);
    said(answer.choices[0].text);
    same(answer.usage.completion_tokens, 6);
  },
  async completions_stream() {
    const chunks = await all(client.completions.create({ ...RAW, stream: true }));
    const pieces = chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.text));
    sameStream(pieces, (await client.completions.create(RAW)).choices[0].text);
  },
  async echo_logprobs() {
    const [choice] = (await client.completions.create({ ...RAW, echo: true, logprobs: 1 })).choices;
    check(choice.text.startsWith(TEXT), choice.text);
    const [first, ...rest] = choice.logprobs.token_logprobs;
    check(first === null && rest.length > 6 && rest.every((value) => value <= 0), `${first}, ${rest}`);
  },
  async responses() {
    const answer = await client.responses.create(INPUT);
    same(answer.output_text, await textOf({ ...GREEDY, max_tokens: 16 }));
    same(answer.usage.output_tokens, 16);
  },
  async responses_stream() {
    const events = await all(client.responses.create({ ...INPUT, stream: true }));
    const pieces = events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta);
    sameStream(pieces, (await client.responses.create(INPUT)).output_text);
    check(["response.completed", "response.incomplete"].includes(events.at(-1).type), events.at(-1).type);
  },
  async unknown_model() {
    await mustFail(OpenAI.NotFoundError, "model must be", ask({ ...ASK, model: "gpt-4" }));
  },
  async bad_value() {
    await mustFail(OpenAI.BadRequestError, "temperature", ask({ ...ASK, temperature: -3 }));
  },
};

const found = {};
for (const [name, feature] of Object.entries(features)) {
  try {
    const seen = await feature();
    found[name] = seen instanceof Refused ? { result: "refused", why: seen.why } : { result: "yes" };
  } catch (error) {
    found[name] = { result: "no", why: `${error.name}: ${error.message}` };
  }
}
const packages = createRequire(import.meta.url)("./package-lock.json").packages;
const versions = { openai: packages["node_modules/openai"].version, node: process.versions.node };
console.log(JSON.stringify({ versions, features: found }));
