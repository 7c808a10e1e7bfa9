// Reads an AsyncAPI document as the official parser does.
//
//     node validate.mjs asyncapi.yaml
//
// Prints {"diagnostics": [...], "document": {...}} as JSON; the document is the file's YAML as the parser's own reader
// takes it.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";
import { load } from "js-yaml";

const text = readFileSync(process.argv[2], "utf8");
const { diagnostics } = await new Parser().parse(text);
console.log(JSON.stringify({
  diagnostics: diagnostics.map(({ code, message, path, severity }) => ({ code, message, path: path.join("."), severity })),
  document: load(text),
}));
