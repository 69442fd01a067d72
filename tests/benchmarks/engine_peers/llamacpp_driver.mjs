// llama.cpp on CPU by node-llama-cpp's own binding: answers lines of JSON on stdin with lines of JSON on stdout.
//
//   {"begin": {row: [ids]}}  rows to run; answered with {}
//   {"step": true}           one batch of llama.cpp; answered with the rows that got a token, as {"rows": [row]}
//   {"end": true}            forget all rows; answered with {}
//
// A batch holds the next token of each running row and fills up with tokens of prompts, as llama.cpp's server does.
// The binding's low-level calls are used, since its public ones decide by themselves when a batch is full.

import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const {folder, weights, context, rows: maxRows, batchTokens, threads} = JSON.parse(process.argv[2]);
const entry = pathToFileURL(`${folder}/node_modules/node-llama-cpp/dist/index.js`);
const {getLlama} = await import(entry.href);

const llama = await getLlama({gpu: false, build: "never", skipDownload: true, logLevel: "warn", maxThreads: 0});
const model = await llama.loadModel({modelPath: weights});
const llamaContext = await model.createContext({sequences: maxRows, contextSize: context, batchSize: batchTokens, threads});
const binding = llamaContext._ctx;
const sampler = new llama._bindings.AddonSampler(model._model);
sampler.applyConfig({temperature: 0});

let rows = [];

function begin(prompts) {
    rows = Object.entries(prompts).map(([name, ids], sequence) => ({
        name, sequence, pending: Uint32Array.from(ids), length: 0
    }));
}

function end() {
    for (const {sequence} of rows)
        binding.disposeSequence(sequence);
    rows = [];
}

function chunks() {
    const running = rows.filter((row) => row.length > 0 && row.pending.length === 1);
    const reading = rows.filter((row) => !running.includes(row));
    let room = batchTokens - running.length;
    const taken = running.map((row) => ({row, ids: row.pending}));
    for (const row of reading) {
        if (room === 0)
            break;
        const ids = row.pending.subarray(0, room);
        taken.push({row, ids});
        room -= ids.length;
    }
    return taken;
}

async function step() {
    const batch = chunks();
    binding.initBatch(batch.reduce((sum, {ids}) => sum + ids.length, 0));
    const sampled = [];
    for (const {row, ids} of batch) {
        const last = ids.length === row.pending.length;
        const [logits] = binding.addToBatch(row.sequence, row.length, ids, Uint32Array.from(last ? [ids.length - 1] : []));
        row.length += ids.length;
        row.pending = row.pending.subarray(ids.length);
        if (last)
            sampled.push({row, logits});
    }
    await binding.decodeBatch();
    for (const {row, logits} of sampled)
        row.pending = Uint32Array.of(await binding.sampleToken(logits, sampler));
    return {rows: sampled.map(({row}) => row.name)};
}

function answer(document) {
    process.stdout.write(JSON.stringify(document) + "\n");
}

answer({
    version: llama.llamaCppRelease.release,
    threads: binding.getThreads(),
    vocab_size: model.fileInfo.metadata.llama.vocab_size,
    batch_tokens: batchTokens,
    system: llama.systemInfo
});
for await (const line of createInterface({input: process.stdin})) {
    const request = JSON.parse(line);
    if (request.begin !== undefined)
        begin(request.begin);
    else if (request.end)
        end();
    answer(request.step ? await step() : {});
}
process.exit(0);
