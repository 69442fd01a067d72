// A tool loop over Chat Completions with the npm package `openai`: `chat_openai.mjs stream|whole`. Prints the answer.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const OpenAI = createRequire(process.env.NODE_PATH + "/")("openai");
const parameters = { type: "object", properties: { path: { type: "string" } }, required: ["path"] };
const tools = [{ type: "function", function: { name: "read", description: "Read a file", parameters } }];
const client = new OpenAI({ baseURL: process.env.ROOST_BASE_URL + "/v1", apiKey: "unused" });
const messages = [
  { role: "system", content: "You read files." },
  { role: "user", content: "Read a.txt, b.txt and c.txt, and tell me the numbers that they hold." },
];
for (;;) {
  const request = { model: "played", messages, tools };
  const completion =
    process.argv[2] === "stream"
      ? await client.chat.completions.stream(request).finalChatCompletion()
      : await client.chat.completions.create(request);
  const message = completion.choices[0].message;
  messages.push(message);
  if (!message.tool_calls?.length) {
    console.log(message.content);
    break;
  }
  for (const call of message.tool_calls) {
    const { path } = JSON.parse(call.function.arguments);
    const content = readFileSync(`${process.env.ROOST_REPOSITORY}/${path}`, "utf8");
    messages.push({ role: "tool", tool_call_id: call.id, content });
  }
}
