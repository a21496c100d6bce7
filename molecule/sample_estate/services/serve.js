'use strict';
// Serves routes over HTTP, in JSON, until the process is told to end.
const http = require('node:http');
const { RequestError } = require('./store');

const LONGEST_BODY_BYTES = 1024 * 1024;

async function readBody(request) {
  const chunks = [];
  let length = 0;
  for await (const chunk of request) {
    length += chunk.length;
    if (length > LONGEST_BODY_BYTES) throw new RequestError(413, 'the body is too long');
    chunks.push(chunk);
  }
  if (length === 0) return {};
  let body;
  try {
    body = JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch {
    throw new RequestError(400, 'the body is not JSON');
  }
  if (body === null || typeof body !== 'object' || Array.isArray(body)) {
    throw new RequestError(400, 'the body is not a JSON object');
  }
  return body;
}

// Return the values of the keys that a body must have, all of them texts.
function required(body, ...keys) {
  const missing = keys.filter((key) => typeof body[key] !== 'string' || body[key] === '');
  if (missing.length) throw new RequestError(400, `the body lacks ${missing.join(', ')}`);
  return keys.map((key) => body[key]);
}

// Return what was found; undefined is a 404.
function found(value, what) {
  if (value === undefined) throw new RequestError(404, `there is no such ${what}`);
  return value;
}

// Return the routes in the form that `find` uses: [method, expression for the path, handler].
function compile(routes) {
  return Object.entries(routes).map(([route, handler]) => {
    const [method, path] = route.split(' ');
    return [method, new RegExp(`^${path.replace(/:(\w+)/g, '(?<$1>[^/]+)')}$`), handler];
  });
}

async function answer(routes, request) {
  const url = new URL(request.url, 'http://localhost');
  const here = routes.filter(([, expression]) => expression.test(url.pathname));
  const route = here.find(([method]) => method === request.method);
  if (!route) throw new RequestError(here.length ? 405 : 404, here.length ? 'method not allowed' : 'there is no such address');
  const parameters = {};
  for (const [name, value] of Object.entries(url.pathname.match(route[1]).groups || {})) {
    try {
      parameters[name] = decodeURIComponent(value);
    } catch {
      throw new RequestError(400, 'the address is not well formed');
    }
  }
  return route[2]({ parameters, body: await readBody(request) });
}

// Serve `routes`, such as {'GET /agents/:id': handler}, and GET /health, which counts the rows of `healthTable`.
// A handler gets {parameters, body} and returns the answer, or [status, answer].
function serve({ service, store, routes, healthTable }) {
  const health = async () => {
    try {
      return { status: 'ok', service, store: store.name, rows: await store.count(healthTable) };
    } catch (error) {
      console.error(`the store does not answer: ${error.message}`);
      return [503, { status: 'error', service, store: store.name, error: 'the store does not answer' }];
    }
  };
  const compiled = compile({ ...routes, 'GET /health': health });
  const server = http.createServer(async (request, response) => {
    let status = 200;
    let body;
    try {
      const result = await answer(compiled, request);
      [status, body] = Array.isArray(result) && typeof result[0] === 'number' ? result : [200, result];
    } catch (error) {
      status = error instanceof RequestError ? error.status : 500;
      body = { error: error instanceof RequestError ? error.message : 'internal error' };
      if (status === 500) console.error(`${request.method} ${request.url}: ${error.message}`);
    }
    const text = JSON.stringify(body);
    response.writeHead(status, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) });
    response.end(text);
  });

  let ending = false;
  const end = () => {
    if (ending) return;
    ending = true;
    server.close(async () => {
      await store.close();
      process.exit(0);
    });
    server.closeIdleConnections();
  };
  process.on('SIGTERM', end);
  process.on('SIGINT', end);

  server.listen(Number(process.env.PORT), '127.0.0.1', () => {
    console.log(`${service} on port ${process.env.PORT}, ${store.name}`);
  });
}

module.exports = { found, required, serve };
