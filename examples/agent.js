#!/usr/bin/env node
// A Homeostat agent over the door, written from README.md and docs/protocol.md alone; node 18 or newer,
// nothing else. What acts goes into `act`. With INTERVAL_S it sends its host's memory so often; without,
// its node's samples are another process's.
//
// usage: agent.js http://127.0.0.1:1618 MESH NODE JOURNAL [INTERVAL_S]
'use strict';
const fs = require('node:fs');
const os = require('node:os');

const [door, mesh, node, path, interval] = process.argv.slice(2);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const complain = (...words) => console.error(...words);

// Of each kind its value's key, whether a value is one, and whether twice is the same as once.
const kinds = {
  monitoring_interval: ['interval_s', (value) => Number.isInteger(value) && value >= 1, true],
  route_preference: ['value', (value) => ['low_latency', 'balanced', 'high_throughput'].includes(value), true],
  healing: ['level', (value) => ['preemptive', 'aggressive'].includes(value), false],
  scaling: ['value', (value) => ['optimize', 'emergency_scale'].includes(value), false],
};
let intervalS = Number(interval);

// Does it, reads it back, and says how it ended and what was seen.
async function act(kind, value) {
  if (kind === 'monitoring_interval') intervalS = value;
  console.log('act', kind, value);
  return ['applied', 'printed'];
}

// The journal: of each log and kind the last row counts. One agent holds it.
const newest = new Map();
const slot = (directive) => `${directive.action.kind} ${directive.log_id}`;
const lock = fs.openSync(path, 'a+');
const text = fs.readFileSync(path, 'utf8');
const whole = text.slice(0, text.lastIndexOf('\n') + 1);
fs.ftruncateSync(lock, Buffer.byteLength(whole)); // a line that did not end was never durable
for (const line of whole.split('\n').filter(Boolean)) {
  const row = JSON.parse(line);
  if (row.directive.mesh_id === mesh && row.directive.node_id === node) newest.set(slot(row.directive), row);
}

function keep(directive, outcome) {
  const row = { directive, outcome };
  try {
    fs.writeSync(lock, JSON.stringify(row) + '\n');
    fs.fsyncSync(lock);
  } catch (error) {
    complain(`writing ${path}:`, error);
    process.exit(1); // never on without a journal
  }
  newest.set(slot(directive), row);
}

// Sends until it is taken, or will never be.
async function send(route, body) {
  for (let wait = 500; ; wait = Math.min(wait * 2, 30000)) {
    let after = 0;
    try {
      const answer = await fetch(door + route, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(30000),
      });
      const said = await answer.text();
      if (answer.ok) {
        for (const line of JSON.parse(said).rejected) complain(route, 'rejected', line);
        return;
      }
      if ([400, 413, 422].includes(answer.status)) return complain(route, answer.status, said);
      after = Number(answer.headers.get('retry-after') || 0) * 1000;
    } catch (error) {
      complain(route, String(error));
    }
    await sleep(Math.max(after, wait * (0.5 + Math.random() / 2)));
  }
}

// The log's name, and its time in ms; where that is the samples' own nothing is over.
async function log() {
  const answer = await fetch(`${door}/v1/log`, { signal: AbortSignal.timeout(30000) });
  if (!answer.ok) throw new Error(`/v1/log answered ${answer.status}`);
  const said = await answer.json();
  const now = said.time_source === 'sample' ? -Infinity : Date.parse(answer.headers.get('date')) + 999;
  if (typeof said.log_id !== 'string' || Number.isNaN(now)) throw new Error('no log is named there');
  return [said.log_id, now];
}

function isDirective(d) {
  const kind = Object.hasOwn(kinds, d?.action?.kind) && kinds[d.action.kind];
  return (
    ['id', 'log_id', 'mesh_id', 'node_id'].every((key) => typeof d?.[key] === 'string') &&
    Number.isInteger(d.generation) && Number.isInteger(d.ttl_s) && !Number.isNaN(Date.parse(d.issued_at)) &&
    kind && kind[1](d.action[kind[0]])
  );
}
const isOver = (d, now) => now >= Date.parse(d.issued_at) + d.ttl_s * 1000;

async function finish(d, ended) {
  const { kind } = d.action;
  let [result, observed] = ended || ['unknown', 'it failed in the middle'];
  if (!ended) {
    try {
      [result, observed] = await act(kind, d.action[kinds[kind][0]]);
    } catch (error) {
      complain('acting:', error);
    }
  }
  const { mesh_id, node_id, log_id, id: directive_id, generation } = d;
  const outcome = { mesh_id, node_id, log_id, directive_id, generation, kind, result, observed };
  keep(d, outcome);
  await send('/v1/outcomes', outcome);
}

async function obey(d, name, now) {
  if (!isDirective(d)) return complain('passed over:', JSON.stringify(d));
  if (d.mesh_id !== mesh || d.node_id !== node || d.log_id !== name) return;
  const last = newest.get(slot(d));
  if (last && d.generation < last.directive.generation) return;
  if (last && !last.outcome) return;
  if (last && d.generation === last.directive.generation) return send('/v1/outcomes', last.outcome);
  if (isOver(d, now)) return;
  keep(d, null);
  await finish(d);
}

// What was begun before a crash, and what may not have been sent.
async function settle(name, now) {
  for (const { directive: d, outcome } of [...newest.values()].filter((row) => row.directive.log_id === name)) {
    if (outcome?.result === 'applied' && d.action.interval_s) intervalS = d.action.interval_s;
    if (outcome) await send('/v1/outcomes', outcome);
    else if (kinds[d.action.kind][2] && !isOver(d, now)) await finish(d);
    else await finish(d, ['unknown', 'begun before a restart']);
  }
}

// Obeys what comes until the connection ends; `place.id` is what was dealt with.
async function follow(name, place) {
  const query = new URLSearchParams({ mesh, node, ...(place.id ? {} : { since_ttl: '1' }) });
  const silent = new AbortController();
  const hush = setInterval(() => Date.now() - heard > 30000 && silent.abort(), 1000);
  let heard = Date.now();
  try {
    const answer = await fetch(`${door}/v1/directives?${query}`, {
      headers: { accept: 'text/event-stream', ...(place.id ? { 'last-event-id': place.id } : {}) },
      signal: silent.signal,
    });
    if ([400, 409].includes(answer.status)) place.id = null;
    if (!answer.ok) throw new Error(`/v1/directives answered ${answer.status}`);
    let [rest, data, id] = ['', '', place.id];
    const decoder = new TextDecoder();
    for await (const piece of answer.body) {
      heard = Infinity; // acting is not silence
      const lines = (rest + decoder.decode(piece, { stream: true })).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith('data:')) data = line.slice(5);
        else if (line.startsWith('id:')) id = line.slice(3).trim();
        else if (line === '') {
          if (data) {
            const [of, now] = await log();
            if (of !== name) return;
            let directive = null;
            try {
              directive = JSON.parse(data);
            } catch (error) {
              complain('no JSON:', data);
            }
            await obey(directive, name, now);
          }
          [data, place.id] = ['', id];
        }
      }
      heard = Date.now();
    }
  } finally {
    clearInterval(hush);
    silent.abort();
  }
}

// A reading each interval, whatever is done meanwhile.
async function sample() {
  const boot = Date.now();
  for (let seq = 1; ; seq++) {
    const memory = 100 * (1 - os.freemem() / os.totalmem());
    const time = new Date().toISOString();
    await send('/v1/metrics', { mesh_id: mesh, node_id: node, boot, seq, time, interval_s: intervalS, memory_percent: memory });
    await sleep(intervalS * 1000);
  }
}

async function main() {
  if (interval) sample();
  const place = { id: null };
  for (let settled = null; ; await sleep(2000)) {
    try {
      const [name, now] = await log();
      if (name !== settled) {
        await settle(name, now);
        [settled, place.id] = [name, null];
      }
      await follow(name, place);
    } catch (error) {
      complain('following:', String(error.cause ?? error));
    }
  }
}
main();
