// What OpenAI's client for Node sees: chat, streams, usage, errors, leaving. Prints one line of JSON, the verdict.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.env.SUITE_URL, apiKey: process.env.SUITE_KEY, maxRetries: 0, timeout: 60_000 });
const base = { model: "smollm2", messages: [{ role: "user", content: "Name a colour." }], max_tokens: 6, temperature: 0 };
const keys = (value) => Object.keys(value).sort();
const verdict = {};

const whole = await client.chat.completions.create(base);
verdict.whole = [keys(whole), keys(whole.choices[0].message), whole.usage.completion_tokens];

const chunks = [];
for await (const chunk of await client.chat.completions.create({ ...base, stream: true, stream_options: { include_usage: true } })) {
  chunks.push(chunk);
}
verdict.stream = [chunks.length > 2, keys(chunks[0]), chunks.at(-1).choices.length, chunks.at(-1).usage.completion_tokens];

const helper = client.chat.completions.stream(base);
const seen = new Set();
for (const event of ["connect", "chunk", "content", "message", "finalChatCompletion", "totalUsage", "end"]) {
  helper.on(event, () => seen.add(event));
}
const final = await helper.finalChatCompletion();
verdict.helper = [[...seen].sort(), final.choices[0].finish_reason];

const left = await client.chat.completions.create({ ...base, max_tokens: 500, stream: true });
for await (const chunk of left) {
  if (chunk.choices[0]?.delta?.content) break; // the client hangs up here
}
verdict.left = true;

for (const [name, fields] of Object.entries({ tooLong: { max_tokens: 100_000 }, bad: { temperature: "hot" }, nobody: { model: "nobody" } })) {
  try {
    await client.chat.completions.create({ ...base, ...fields });
  } catch (error) {
    verdict[name] = [error.constructor.name, error.status, typeof error.message];
  }
}

const raw = await client.chat.completions.create(base).asResponse();
verdict.raw = [raw.status, raw.headers.get("content-type"), keys(await raw.json())];
console.log(JSON.stringify(verdict));
